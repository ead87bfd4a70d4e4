"""Scripted services: real HTTP/1.1 servers on loopback that do exactly what a script says, faults included."""
