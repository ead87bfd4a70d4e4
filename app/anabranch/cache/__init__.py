"""Stored answers: where they are kept, and which of them may be."""
