"""Formats of bodies other than JSON, each as JSON text: one module for each. Pure: bytes and a content type in, bytes out."""
