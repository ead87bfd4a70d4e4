"""Runs the operator's Python functions (hooks): in threads, in processes, on a Dask cluster, and async ones on the event loop."""
