"""The command `anabranch`, one module for each group of commands."""
