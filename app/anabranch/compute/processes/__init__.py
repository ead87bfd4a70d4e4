"""Worker processes for compute steps: a fork server, the channel to each worker, and the pool that owns them."""
