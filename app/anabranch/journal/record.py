"""One record of the journal: what it holds, and how it is one line of a segment.

A line is one JSON object that ends with its own checksum: `{...,"crc":"1a2b3c4d"}` and a line feed. The checksum is the CRC-32 (zlib) of
every byte before the comma in front of `"crc"`. So a segment is JSON Lines that any tool reads, and a line is proven before it is parsed.

Bodies that are JSON stand in the line as they are spelled. A line break in one can only be white space between tokens, and becomes a space;
white space around one is not read back.

Knows nothing of files, of redaction, or of how a request is served.
"""

from base64 import b64decode, b64encode
from datetime import datetime
from hashlib import sha256
from typing import Final
from zlib import crc32

import msgspec
from msgspec import UNSET, Raw, UnsetType

VERSION: Final = 1
"""Version of the record's format. A reader refuses records of a later one."""

_MARK: Final = b',"crc":"'
_TAIL_BYTES: Final = len(_MARK) + 8 + len(b'"}')
_BRACKETS_THAT_CANNOT_BE_DEEP: Final = 200
_BYTES_THAT_CANNOT_BE_DEEP: Final = 800
# How much deeper than in the answer itself a body may have to be read: inside its record, by a program with frames of its own.
_DEEPER: Final = 100
# Nothing, and a byte order mark: readers of answers forgive them, a record does not hold them.
_NOT_THE_START_OF_JSON: Final = (b"", b"\xef")


class RecordError(ValueError):
    """A line is no record: torn, damaged, or of a later version. The message is a sentence without the line's content."""


class Content(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A body, in exactly one of three forms.

    `json`: JSON text, as it was spelled but for line breaks. `base64`: the bytes of a body that is no JSON. `sha256` (hex) and
    `size` (bytes): of a body that is not kept.
    """

    json: Raw | UnsetType = UNSET
    base64: str | UnsetType = UNSET
    sha256: str | UnsetType = UNSET
    size: int | UnsetType = UNSET

    @property
    def is_kept(self) -> bool:
        return self.size is UNSET

    def to_bytes(self) -> bytes:
        """The body. Raises LookupError when only its digest was kept."""
        if not isinstance(self.json, UnsetType):
            return bytes(self.json)
        if not isinstance(self.base64, UnsetType):
            return b64decode(self.base64)
        raise LookupError("only the digest of this body was kept")


class Asked(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What the client asked for.

    `id`: the X-Request-Id. `path`: as the client encoded it. `query`: without `?`, redacted. `headers`: those that the endpoint lists, by
    lower-case name, redacted. `body`: None when there was none.
    """

    id: str
    method: str
    path: str
    query: str = ""
    headers: dict[str, str] = {}
    body: Content | None = None


class Step(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What one step ended with.

    `upstream`: "" for a compute. `method`, `target`, `sent`: what was sent, None when nothing was (`target` as in the request line,
    redacted; `sent` is its body). `status`: of the upstream's answer. `failure`: code of the error, None when it has a value.
    `started_ms`: since the request began. `queue_ms`: the part of `elapsed_ms` that it waited for a place.
    `headers`, `body`: of the upstream's answer before any shaping; only with `bodies: steps`, and then also for an answer that is not 2xx.
    `age_s`: how old the answer was, when an earlier one stood in for a failure (`stale_if_error`). `origin`: digest of what is fixed about a
    call that may be answered so after a restart; "" for others. `headers` has those of `ANSWER_HEADERS`. `value`: a compute's result, only with `bodies: steps`.
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


ANSWER_HEADERS: Final = frozenset(
    {b"age", b"cache-control", b"content-type", b"date", b"etag", b"expires", b"last-modified", b"retry-after", b"vary"}
)
"""Header fields of upstreams' answers that are kept with `bodies: steps`: what can change how an answer is used."""


class Record(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One response and what it was made of.

    `time`: when the response was ready, UTC. `id`: UUID version 7, made with the record. `plan`: digest of the endpoint's part of the document.
    `steps`: in document order; one that never ran because a required one failed is not in it. `status`: what the client was sent.
    `complete`: no step failed. `failure`: code of the problem that was answered instead of the endpoint's own response.
    `elapsed_ms`: from the request's arrival. `body`: of the response.
    """

    v: int
    id: str
    time: datetime
    endpoint: str
    plan: str
    status: int
    complete: bool
    elapsed_ms: float
    request: Asked
    steps: list[Step] = []
    failure: str | None = None
    body: Content | None = None


class Head(msgspec.Struct, frozen=True, gc=False):
    """The part of a record that it is found by. Cheaper to read than all of it."""

    v: int
    id: str
    time: datetime
    endpoint: str
    plan: str
    status: int
    complete: bool
    elapsed_ms: float
    failure: str | None = None


_encoder: Final = msgspec.json.Encoder()
_decode_record: Final = msgspec.json.Decoder(Record).decode
_decode_head: Final = msgspec.json.Decoder(Head).decode
_decode_raw: Final = msgspec.json.Decoder(Raw).decode


def encode(record: Record) -> bytes:
    """The record's line, with its line feed."""
    line = bytearray()
    encode_into(record, line)
    return bytes(line)


def encode_into(record: Record, lines: bytearray) -> None:
    """Append the record's line, with its line feed. About 2 us, and half a microsecond for each kB."""
    start = len(lines)
    _encoder.encode_into(record, lines, -1)
    del lines[-1:]  # the closing brace comes behind the checksum
    with memoryview(lines) as whole, whole[start:] as content:
        checksum = crc32(content)
    lines += b',"crc":"%08x"}\n' % checksum


def check(line: bytes) -> None:
    """Prove a line (without its line feed) by its checksum. Raises RecordError."""
    if line[-_TAIL_BYTES:-10] != _MARK or line[-2:] != b'"}':
        raise RecordError("the line is not whole")
    try:
        expected = int(line[-10:-2], 16)
    except ValueError:
        raise RecordError("the checksum is not one") from None
    if crc32(memoryview(line)[:-_TAIL_BYTES]) != expected:
        raise RecordError("the checksum is not that of the line")


def is_whole(line: bytes) -> bool:
    """Whether `check` lets the line pass."""
    try:
        check(line)
    except RecordError:
        return False
    return True


def decode(line: bytes) -> Record:
    """The record of a line (without its line feed), proven first. Raises RecordError. `Content.json` refers to `line`: it stays in memory."""
    check(line)
    return read_record(line)


def read_record(line: bytes) -> Record:
    """The record of a line that has been proven. Raises RecordError."""
    try:
        record = _decode_record(line)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise RecordError("the line is not a record") from None
    if record.v > VERSION:
        raise RecordError(f"the record has format {record.v}, and this program reads up to {VERSION}")
    return record


def read_head(line: bytes) -> Head:
    """The head of a line that has been proven. Raises RecordError."""
    try:
        head = _decode_head(line)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise RecordError("the line is not a record") from None
    if head.v > VERSION:
        raise RecordError(f"the record has format {head.v}, and this program reads up to {VERSION}")
    return head


def kept(body: bytes, *, is_json: bool = False) -> Content:
    """A body that is kept. `is_json`: it has been proven to be JSON in UTF-8 already."""
    if (not is_json or body[:1] in _NOT_THE_START_OF_JSON) and not _is_json(body):
        return Content(base64=b64encode(body).decode())
    if len(body) > _BYTES_THAT_CANNOT_BE_DEEP and _brackets(body) > _BRACKETS_THAT_CANNOT_BE_DEEP and not _is_shallow(body):
        return Content(base64=b64encode(body).decode())
    if b"\n" in body or b"\r" in body:
        body = body.replace(b"\n", b" ").replace(b"\r", b" ")
    return Content(Raw(body))


def digested(body: bytes) -> Content:
    """The digest of a body that is not kept."""
    return Content(sha256=sha256(body).hexdigest(), size=len(body))


def _is_json(body: bytes) -> bool:
    if body[:1] in _NOT_THE_START_OF_JSON:
        return False
    try:
        if not body.isascii():
            body.decode()
        _decode_raw(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False
    return True


def _brackets(body: bytes) -> int:
    """How many brackets open in the text. `replace` goes from one to the next by memchr; `count` looks at each byte, and takes three times as long."""
    return len(body) - len(body.replace(b"{", b"").replace(b"[", b""))


def _is_shallow(body: bytes) -> bool:
    """Whether a reader can take the body apart inside its record: how deep JSON may be nested is limited."""
    try:
        _decode_raw(b"[" * _DEEPER + body + b"]" * _DEEPER)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
