"""The proof of speed: the same workloads against Anabranch and against what a user would pick instead, in one run. `python -m bench`."""
