"""Connections and exchanges. The only folder that imports httpx."""
