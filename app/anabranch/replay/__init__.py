"""Runs recorded requests again, offline or live, and compares the responses."""
