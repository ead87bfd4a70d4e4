"""Lines of JSON (NDJSON, JSON Lines) as an array. Every value keeps its exact spelling.

**Source:** https://jsonlines.org.
"""

from typing import Final

import msgspec

from anabranch.errors import InvalidJSON
from anabranch.jsontext.proof import decode_raw, fault_of
from anabranch.jsontext.raw import WHITESPACE, prepare

_FROM_BYTES: Final = 384 * 1024
_MOST_LINES: Final = 5000


def is_large(body: bytes) -> bool:
    return len(body) >= _FROM_BYTES or body.count(b"\n") > _MOST_LINES


def read(body: bytes, content_type: str) -> bytes:
    """The values of the lines. Lines of white space are ignored. Raises InvalidJSON, which names the line that is not JSON."""
    values: list[bytes] = []
    for number, line in enumerate(prepare(body).split(b"\n") if body else (), 1):
        value = line.strip(WHITESPACE)
        if not value:
            continue
        try:
            decode_raw(value)
        except (msgspec.DecodeError, RecursionError) as error:
            reason = fault_of(value, error).replace(" at line 1, column ", " at column ")
            raise InvalidJSON(f"line {number} is not JSON: {reason}", may_be_processed=True) from None
        values.append(value)
    return b"[" + b",".join(values) + b"]"
