"""The id of a request, and the W3C trace context that the client sent. Creates no spans."""

from typing import Final

import msgspec
from uuid_utils import uuid7

_MAX_ID_CHARS: Final = 128
_ID_CHARS: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~-"
_HEX: Final = b"0123456789abcdef"
_MAX_STATE_BYTES: Final = 8192


class Trace(msgspec.Struct, frozen=True):
    """`request_id`: safe in a header. `extra`: header fields for every upstream call of this request.
    `traceparent`: the client's, if valid; else None."""

    request_id: bytes
    extra: tuple[tuple[bytes, bytes], ...]
    traceparent: bytes | None = None


def read(headers: dict[bytes, bytes]) -> Trace:
    """The trace of a request with these headers (lower-case names, repeats joined).

    A valid `X-Request-Id` (1 to 128 unreserved characters) is used; otherwise a new id is generated (UUID version 7, sortable by time,
    RFC 9562). A valid `traceparent` is passed on unchanged, with a valid `tracestate`; an invalid one is dropped with its `tracestate`.
    """
    request_id = headers.get(b"x-request-id")
    if request_id is None or not is_request_id(request_id):
        request_id = str(uuid7()).encode()
    parent = headers.get(b"traceparent")
    if parent is None or not is_traceparent(parent):
        return Trace(request_id, ((b"x-request-id", request_id),))
    state = headers.get(b"tracestate")
    if state is None or not _is_state(state):
        return Trace(request_id, ((b"x-request-id", request_id), (b"traceparent", parent)), parent)
    return Trace(request_id, ((b"x-request-id", request_id), (b"traceparent", parent), (b"tracestate", state)), parent)


def is_request_id(value: bytes) -> bool:
    return 0 < len(value) <= _MAX_ID_CHARS and not value.translate(None, _ID_CHARS)


def is_traceparent(value: bytes) -> bool:
    """Whether `value` is a valid traceparent, of this or a later version.

    **Source:** W3C Trace Context, sections 3.2.2 (format) and 4.3 (unknown versions).
    """
    if len(value) < 55 or value[2:3] != b"-" or value[35:36] != b"-" or value[52:53] != b"-":
        return False
    version, trace_id, parent_id, flags = value[:2], value[3:35], value[36:52], value[53:55]
    if (version + trace_id + parent_id + flags).translate(None, _HEX):
        return False
    if version == b"ff" or not trace_id.strip(b"0") or not parent_id.strip(b"0"):
        return False
    return len(value) == 55 or (version != b"00" and value[55:56] == b"-" and value.isascii() and value.decode().isprintable())


def _is_state(value: bytes) -> bool:
    return 0 < len(value) <= _MAX_STATE_BYTES and value.isascii() and value.decode().isprintable()
