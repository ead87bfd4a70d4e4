"""A document in service: compiled, opened, watched, reloaded, closed."""
