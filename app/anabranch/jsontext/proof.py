"""Is this JSON in UTF-8? The one answer for every body: of clients, services, hooks and records.

msgspec proves the grammar in one pass and builds nothing, but does not look at the bytes inside the strings it passes over, so UTF-8 is proven
apart: 0.8 ms for each MB in all.

**Source:** RFC 8259 sections 2 (grammar) and 8.1 (UTF-8, byte order mark).
"""

import re
from typing import Final

import msgspec
from msgspec import Raw

decode_raw: Final = msgspec.json.Decoder(Raw).decode
"""Proves the grammar of JSON text. Raises msgspec.DecodeError and RecursionError."""

BOM: Final = b"\xef\xbb\xbf"
_ESCAPE: Final = re.compile(rb"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)


class NotJSON(ValueError):
    """A body is not JSON in UTF-8. Its text says why, with positions and never with content."""


def prove(body: bytes) -> None:
    """Raise NotJSON unless `body` is exactly one JSON value in UTF-8, without a byte order mark."""
    try:
        if not body.isascii():
            body.decode()
        decode_raw(body)
    except UnicodeDecodeError as error:
        raise NotJSON(f"not UTF-8: byte {error.start + 1} is not part of a character") from None
    except msgspec.DecodeError as error:
        raise NotJSON(f"not JSON: {fault_of(body, error)}") from None
    except RecursionError:
        raise NotJSON("nested too deeply") from None


def is_proven(body: bytes) -> bool:
    """Whether `prove` takes it."""
    try:
        prove(body)
    except NotJSON:
        return False
    return True


def is_answer(body: bytes) -> bool:
    """Whether a service's body can be read: it is proven JSON, possibly behind a byte order mark, or empty (null)."""
    return not body or is_proven(body.removeprefix(BOM))


def fault_of(body: bytes, error: Exception) -> str:
    """What is wrong with `body`, which a decoder refused with `error`: the reason with line and column, and nothing of its content."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if body.startswith(BOM):
        return "it begins with a byte order mark"
    if isinstance(error, msgspec.ValidationError):
        return "a number is out of range"
    reason, _, rest = str(error).removeprefix("JSON is malformed: ").rpartition(" (byte ")
    # The decoder counts from 0, but from 1 for trailing characters.
    offset = int(rest.partition(")")[0]) - (reason == "trailing characters") if reason else len(body)
    half = _half_pair(body)
    if half is not None and half < offset:
        # RFC 8259 section 8.2 leaves open what becomes of it, and no text can hold it.
        return f"an escape is half of a surrogate pair{_position(body, half)}"
    return f"{reason}{_position(body, offset)}" if reason else "unexpected end of input"


def _position(body: bytes, offset: int) -> str:
    line = body.count(b"\n", 0, offset) + 1
    column = len(body[body.rfind(b"\n", 0, offset) + 1 : offset].decode(errors="replace")) + 1
    return f" at line {line}, column {column}"


def _half_pair(body: bytes) -> int | None:
    """Where the first escape is that stands for half of a character outside of the basic plane; None when there is none."""
    high: int | None = None
    for escape in _ESCAPE.finditer(body):
        code = int(escape[1], 16) if escape[1] else 0
        is_low = 0xDC00 <= code < 0xE000
        if high is not None and (not is_low or escape.start() != high + 6):
            return high
        if high is None and is_low:
            return escape.start()
        high = escape.start() if 0xD800 <= code < 0xDC00 else None
    return high
