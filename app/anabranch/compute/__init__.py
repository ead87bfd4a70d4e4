"""Runs Python functions off the event loop: on threads, in processes, on a Dask cluster."""
