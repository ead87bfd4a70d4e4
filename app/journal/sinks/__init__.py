"""Where a journal is shipped to: the seam, the task that ships, and one module for each kind of place."""
