"""Compiles the document to plans: everything that can be decided before a request arrives is decided here. No I/O, clock or asyncio."""
