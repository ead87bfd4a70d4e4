"""Serialises the reading of a large body for a worker process, which can be stopped at the deadline whatever the body does to the parser.

An order is a text that names the rules; the worker compiles and caches them. Must not know processes or the event loop.
"""

from functools import lru_cache
from typing import Final

import msgspec

from anabranch.errors import InvalidCharset, InvalidFormat, InvalidJSON, UpstreamError
from anabranch.formats.rules import FORMATS, Read, Rules

MAX_ORDER: Final = 32 * 1024
"""Of an order, in bytes."""

_FAULT: Final = b"!"  # followed by the error's code and detail; no JSON text begins with it
_FAULTS: Final[dict[str, type[UpstreamError]]] = {error.code: error for error in (InvalidFormat, InvalidCharset, InvalidJSON)}


def order_of(rules: Rules) -> str:
    return msgspec.json.encode(rules).decode()


def pack(body: bytes, content_type: str) -> bytes:
    """A body and its content type as one payload."""
    return content_type.encode() + b"\n" + body


def settle(reply: bytes) -> bytes:
    """The JSON text in a worker's reply. Raises what reading has raised there."""
    if reply[:1] == _FAULT:
        code, detail = msgspec.json.decode(reply[1:], type=tuple[str, str])
        raise _FAULTS[code](detail, may_be_processed=True)
    return reply


def carry_out(order: str, payload: bytes) -> bytes:
    """Execute an order, in the worker process."""
    content_type, _, body = payload.partition(b"\n")
    try:
        return _reader(order)(body, content_type.decode())
    except (InvalidFormat, InvalidCharset, InvalidJSON) as error:
        return _FAULT + msgspec.json.encode((error.code, error.detail))


@lru_cache(maxsize=1024)
def _reader(order: str) -> Read:
    rules = msgspec.json.decode(order, type=Rules)
    return FORMATS[rules.format].compile(rules)
