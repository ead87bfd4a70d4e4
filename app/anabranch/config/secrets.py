"""Values from environment variables and secret files: their paths in the document, and their redaction from messages.

Every substituted value is treated as confidential. This module never shows the values it holds.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from anabranch.config.node import Path

# Shorter values (a port, a small limit) occur in messages by chance. They are hidden only by their path in the document.
_MIN_LENGTH: Final = 4
_HIDDEN: Final = "***"
# Words of YAML itself are not secrets, and hiding them would garble messages.
_WORDS: Final = frozenset({"true", "false", "null"})
# RFC 3986 section 3.2.1.
_USERINFO: Final = re.compile(r"://.*@")
# Keys of an upstream, an authentication or a store whose values are confidential even when they are written out in the document.
_CONFIDENTIAL: Final = frozenset({"client_secret", "headers", "keys", "password", "secret", "users"})
_SECTIONS: Final = frozenset({"upstreams", "auth", "store"})


def is_confidential(path: Path, value: object) -> bool:
    """Whether no message may show the value at `path`: in one of these sections, header fields, secrets, passwords, and URLs that have credentials."""
    return bool(path) and path[0] in _SECTIONS and (not _CONFIDENTIAL.isdisjoint(path[2:]) or _holds_credentials(value))


def _holds_credentials(value: object) -> bool:
    if isinstance(value, dict):
        return not _CONFIDENTIAL.isdisjoint(value) or any(map(_holds_credentials, value.values()))
    if isinstance(value, list):
        return any(map(_holds_credentials, value))
    return isinstance(value, str) and "@" in value


@dataclass(slots=True, repr=False, eq=False)
class Secrets:
    """`paths`: paths of values that are, or contain, a substituted text. `values`: the substituted texts."""

    paths: set[Path] = field(default_factory=set)
    values: set[str] = field(default_factory=set)

    def touch(self, path: Path) -> bool:
        """Whether the value at `path`, a part of it, or a value that contains it holds a secret."""
        return any(secret[: len(path)] == path[: len(secret)] for secret in self.paths)

    def redact(self, text: str) -> str:
        """`text` with every secret value replaced by `***`, the longest first, and the credentials in a URL. Quoted and escaped forms are
        replaced too."""
        return hidden(text, spellings(self))

    def __repr__(self) -> str:
        return f"Secrets({len(self.paths)} paths)"


def spellings(*all_secrets: Secrets) -> list[str]:
    """Every form in which a value of these secrets can occur in a message, the longest first."""
    found = {spelling for secrets in all_secrets for value in secrets.values for spelling in _spellings(value)}
    return sorted(found, key=len, reverse=True)


def hidden(text: str, found: Iterable[str]) -> str:
    """`text` with `***` in place of each of these `spellings`, and of the credentials in a URL."""
    text = _USERINFO.sub(f"://{_HIDDEN}@", text)
    for spelling in found:
        text = text.replace(spelling, _HIDDEN)
    return text


def _spellings(value: str) -> Iterable[str]:
    """The forms in which `value` can occur in a message: plain, stripped, as JSON, as a Python literal, with its braces doubled."""
    if value.strip().lower() in _WORDS:
        return
    doubled = value.replace("{", "{{").replace("}", "}}")
    for text in (value, value.strip(), doubled):
        for spelling in (text, json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1], repr(text)[1:-1]):
            if len(spelling) >= _MIN_LENGTH:
                yield spelling
