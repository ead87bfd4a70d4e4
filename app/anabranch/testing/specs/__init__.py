"""Execution specs: YAML files with cases, each a gateway document, scripted services, requests, and what must come of them."""
