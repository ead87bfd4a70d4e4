"""The demo's document with time to spare, for tests that ask for whole answers: its own limits are for people who look on, and a machine that
is busy breaks them."""

import re
from typing import Final

_LIMIT: Final = re.compile(r"timeout: [\d.]+m?s\b")


def unhurried(document: str) -> str:
    """The document with a minute in the place of every time limit that it names."""
    return _LIMIT.sub("timeout: 60s", document)
