"""Benchmarks: runs the same workloads against Anabranch and its alternatives, in one run. `python -m bench`."""
