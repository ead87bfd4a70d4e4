"""One layer around a call in each file; `stack` knows their order."""
