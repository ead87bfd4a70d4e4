"""One record of the journal: its fields, and its encoding as one line of a segment.

A line is one JSON object that ends with its own checksum, `{...,"crc":"1a2b3c4d"}`, and a line feed. The checksum is the CRC-32 (zlib) of
every byte before the comma in front of `"crc"`. A segment is therefore JSON Lines that any tool can read, and a line is verified before it
is parsed.

A body that is JSON is embedded with its original spelling. A line break in it can only be white space between tokens, and is replaced by a
space. White space around the body is not restored when it is read back.
"""

from base64 import b64decode, b64encode
from datetime import datetime
from hashlib import sha256
from typing import Final
from zlib import crc32

import msgspec
from msgspec import UNSET, Raw, UnsetType

VERSION: Final = 1
"""Version of the record format. Readers reject records of a later version."""

_MARK: Final = b',"crc":"'
_TAIL_BYTES: Final = len(_MARK) + 8 + len(b'"}')
# A body with no more opening brackets, or no more bytes, than this is never nested too deeply to be read back.
_SHALLOW_BRACKETS: Final = 200
_SHALLOW_BYTES: Final = 800
# Nesting levels to spare: a body is read back inside its record, by programs that already have stack frames of their own.
_SPARE_DEPTH: Final = 100
# An empty body, and a byte order mark: parsers of upstream answers tolerate both, but a record must not contain them.
NOT_THE_START_OF_JSON: Final = (b"", b"\xef")


class RecordError(ValueError):
    """A line is not a valid record: torn, damaged, or of a later version. The message never contains content of the line."""


class Content(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A body, in exactly one of three forms.

    `json`: JSON text, as it was spelled except for line breaks. `base64`: the bytes of a body that is not JSON, or is nested too deeply.
    `sha256` (hex) and `size` (bytes): of a body that is not kept.
    """

    json: Raw | UnsetType = UNSET
    base64: str | UnsetType = UNSET
    sha256: str | UnsetType = UNSET
    size: int | UnsetType = UNSET

    @property
    def is_kept(self) -> bool:
        return self.size is UNSET

    def to_bytes(self) -> bytes:
        """Return the body. Raises LookupError when only its digest was kept."""
        if not isinstance(self.json, UnsetType):
            return bytes(self.json)
        if not isinstance(self.base64, UnsetType):
            return b64decode(self.base64)
        raise LookupError("only the digest of this body was kept")


class RecordedRequest(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The client's request.

    `id`: the X-Request-Id. `trace`: the W3C trace id, "" when the request was not traced. `path`: as the client encoded it. `query`: without `?`, redacted. `headers`: those that the endpoint's `journal`
    lists, by lower-case name, redacted. `body`: None when there was none. `principal`: what `{auth}` was, redacted as bodies are; None for an endpoint that does not refer to it.
    """

    id: str
    method: str
    path: str
    query: str = ""
    headers: dict[str, str] = {}
    body: Content | None = None
    trace: str = ""
    principal: Content | None = None


class Step(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The outcome of one step.

    `upstream`: "" for a compute. `method`, `target`, `sent`: the request that was sent, None when none was (`target` as in the request
    line, redacted; `sent` is its body). `status`: of the upstream's answer. `failure`: the error's code, None when the step has a value.
    `started_ms`: since the request arrived. `queue_ms`: the part of `elapsed_ms` spent waiting for a slot.
    `headers`, `body`: of the upstream's answer before any shaping, also when it is not 2xx; kept only with `bodies: steps`. `headers` has
    only those in `ANSWER_HEADERS`. `value`: a compute's result, only with `bodies: steps`.
    `age_s`: the answer's age, when an earlier answer replaced a failure (`stale_if_error`). `origin`: digest of the parts of the call that
    the document fixes, and of the host by which the service is told that it is reached, when its answers may be reused after a restart
    (`stale_if_error`); "" for other calls. `answered_by`: the step whose value stands in its place (`fallback`, `any`); "" for its own.
    """

    name: str
    upstream: str = ""
    method: str | None = None
    target: str | None = None
    sent: Content | None = None
    status: int | None = None
    failure: str | None = None
    attempts: int = 0
    started_ms: float = 0.0
    elapsed_ms: float = 0.0
    queue_ms: float = 0.0
    headers: dict[str, str] = {}
    body: Content | None = None
    value: Content | None = None
    age_s: float | None = None
    origin: str = ""
    answered_by: str = ""


ANSWER_HEADERS: Final = frozenset(
    {b"age", b"cache-control", b"content-type", b"date", b"etag", b"expires", b"last-modified", b"retry-after", b"vary"}
)
"""Header fields of upstream answers that are kept with `bodies: steps`: those that affect how an answer may be used."""


class Record(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One response and the steps that it was built from.

    `time`: when the response was ready, UTC. `id`: UUID version 7, created with the record. `plan`: digest of the endpoint's part of the
    document. `steps`: in document order; a step that never ran because a required one failed is missing. `status`: as sent to the client.
    `complete`: no step failed. `failure`: code of the problem that was sent instead of the endpoint's own response.
    `elapsed_ms`: since the request arrived. `body`: of the response.
    """

    v: int
    id: str
    time: datetime
    endpoint: str
    plan: str
    status: int
    complete: bool
    elapsed_ms: float
    request: RecordedRequest
    steps: list[Step] = []
    failure: str | None = None
    body: Content | None = None


class RequestHead(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What `Head` has of a request."""

    id: str
    method: str
    path: str
    trace: str = ""


class Head(msgspec.Struct, frozen=True, gc=False):
    """The fields of a record that filters and lists use. Cheaper to decode than the whole record."""

    v: int
    id: str
    time: datetime
    endpoint: str
    plan: str
    status: int
    complete: bool
    elapsed_ms: float
    request: RequestHead
    failure: str | None = None


_encoder: Final = msgspec.json.Encoder()
_decode_record: Final = msgspec.json.Decoder(Record).decode
_decode_head: Final = msgspec.json.Decoder(Head).decode
_decode_raw: Final = msgspec.json.Decoder(Raw).decode


def encode(record: Record) -> bytes:
    """Encode a record as its line, including the line feed."""
    line = bytearray()
    encode_into(record, line)
    return bytes(line)


def encode_into(record: Record, lines: bytearray) -> None:
    """Append the record's line, including the line feed. Takes about 2 us, plus 0.5 us for each kB."""
    start = len(lines)
    _encoder.encode_into(record, lines, -1)
    del lines[-1:]  # the closing brace follows the checksum
    with memoryview(lines) as whole, whole[start:] as content:
        checksum = crc32(content)
    lines += b',"crc":"%08x"}\n' % checksum


def check(line: bytes) -> None:
    """Verify a line (without its line feed) by its checksum. Raises RecordError."""
    if line[-_TAIL_BYTES:-10] != _MARK or line[-2:] != b'"}':
        raise RecordError("the line is incomplete")
    try:
        expected = int(line[-10:-2], 16)
    except ValueError:
        raise RecordError("the checksum is malformed") from None
    if crc32(memoryview(line)[:-_TAIL_BYTES]) != expected:
        raise RecordError("the checksum does not match the line")


def decode(line: bytes) -> Record:
    """Verify and decode a line (without its line feed). Raises RecordError. `Content.json` refers into `line` and keeps it in memory."""
    check(line)
    return read_record(line)


def read_record(line: bytes) -> Record:
    """Decode the record of a line that has been verified. Raises RecordError."""
    try:
        record = _decode_record(line)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise RecordError("the line is not a record") from None
    if record.v > VERSION:
        raise RecordError(f"the record has format {record.v}, but this version of Anabranch reads only up to {VERSION}")
    return record


def read_head(line: bytes) -> Head:
    """Decode the head of a line that has been verified. Raises RecordError."""
    try:
        head = _decode_head(line)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise RecordError("the line is not a record") from None
    if head.v > VERSION:
        raise RecordError(f"the record has format {head.v}, but this version of Anabranch reads only up to {VERSION}")
    return head


def kept(body: bytes, *, is_json: bool = False) -> Content:
    """Wrap a body that is kept. `is_json`: the caller has verified that it is JSON in UTF-8."""
    if (not is_json or body[:1] in NOT_THE_START_OF_JSON) and not _is_json(body):
        return Content(base64=b64encode(body).decode())
    if len(body) > _SHALLOW_BYTES and _brackets(body) > _SHALLOW_BRACKETS and not _is_shallow(body):
        return Content(base64=b64encode(body).decode())
    if b"\n" in body or b"\r" in body:
        body = body.replace(b"\n", b" ").replace(b"\r", b" ")
    return Content(Raw(body))


def digested(body: bytes) -> Content:
    """Wrap a body that is not kept: its digest and size."""
    return Content(sha256=sha256(body).hexdigest(), size=len(body))


def _is_json(body: bytes) -> bool:
    if body[:1] in NOT_THE_START_OF_JSON:
        return False
    try:
        if not body.isascii():
            body.decode()
        _decode_raw(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False
    return True


def _brackets(body: bytes) -> int:
    """Count the opening brackets. `replace` finds the next one by memchr; `count` looks at each byte and takes three times as long."""
    return len(body) - len(body.replace(b"{", b"").replace(b"[", b""))


def _is_shallow(body: bytes) -> bool:
    """Whether readers can parse the body inside its record. The nesting depth of JSON is limited."""
    try:
        _decode_raw(b"[" * _SPARE_DEPTH + body + b"]" * _SPARE_DEPTH)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
