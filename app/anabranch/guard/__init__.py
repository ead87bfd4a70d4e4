"""Decides from the head of a request whether to admit it."""
