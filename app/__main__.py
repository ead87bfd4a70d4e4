"""`python -m app` is the command `anabranch`."""

from app.cli import main

main()
