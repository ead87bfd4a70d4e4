"""What came from the environment or from a secret file: where it went in the document, and how to keep it out of every text.

Any of it may be confidential, so all of it is treated so. This module never shows what it holds; it knows nothing of how it got it.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from anabranch.config.node import Path

# Texts shorter than this (a port, a small limit) occur in messages by chance; those are hidden by their place in the document only.
_SHORTEST_TEXT: Final = 4
_HIDDEN: Final = "***"
# Words of YAML itself: no secrets, and to hide them would garble the messages.
_WORDS: Final = frozenset({"true", "false", "null"})


@dataclass(slots=True, repr=False, eq=False)
class Secrets:
    """`paths`: places in the document whose value is, or holds, something substituted. `values`: the texts that were put there."""

    paths: set[Path] = field(default_factory=set)
    values: set[str] = field(default_factory=set)

    def touch(self, path: Path) -> bool:
        """Whether a secret went into the value at `path`, into a part of it, or into what it is a part of."""
        return any(place[: len(path)] == path[: len(place)] for place in self.paths)

    def redact(self, text: str) -> str:
        """`text` with every secret value replaced by `***`, the longest first; also where it was quoted or escaped."""
        for spelling in sorted({spelling for value in self.values for spelling in _spellings(value)}, key=len, reverse=True):
            text = text.replace(spelling, _HIDDEN)
        return text

    def __repr__(self) -> str:
        return f"Secrets({len(self.paths)} paths)"


def _spellings(value: str) -> Iterable[str]:
    """The ways in which `value` may stand in a message: plain, stripped, as JSON, as a Python literal, with its braces doubled."""
    if value.strip().lower() in _WORDS:
        return
    doubled = value.replace("{", "{{").replace("}", "}}")
    for text in (value, value.strip(), doubled):
        for spelling in (text, json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1], repr(text)[1:-1]):
            if len(spelling) >= _SHORTEST_TEXT:
                yield spelling
