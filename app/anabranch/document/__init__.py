"""A document while it is served: compiled, opened as a service, watched, reloaded, closed."""
