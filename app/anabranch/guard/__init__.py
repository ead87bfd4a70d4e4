"""Decides from the head of a request whether it may come in. Knows no step."""
