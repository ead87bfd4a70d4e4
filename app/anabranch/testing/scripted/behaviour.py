"""What a scripted service does with one request, and the request as it arrived. Renders answers to the bytes that go onto the wire.

Knows HTTP/1.1 framing and how to break it, but no socket and no clock: `upstream` plays what is rendered here.
"""

import gzip
import json
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal
from urllib.parse import parse_qs, unquote

import brotli
from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from anabranch.config.base import Model

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ResetPoint = Literal["request", "answer", "body"]

_BODILESS: Final = frozenset({204, 304})


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One request as it arrived. `headers`: lower-case names, in order, repeats kept. `connection`: 0 for the first one accepted."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int = 0
    params: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(self.target.partition("?")[2], keep_blank_values=True)

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    def json(self) -> Any:
        """The body as JSON, None when it is empty or is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    def echo(self) -> dict[str, Any]:
        """What `echo` and templates see."""
        return {
            "method": self.method,
            "target": self.target,
            "path": self.path,
            "query": {name: values[0] if len(values) == 1 else values for name, values in self.query.items()},
            "headers": dict(self.headers),
            "body": self.json() if self.json() is not None else self.body.decode("latin-1") or None,
            "params": self.params,
        }


def _pairs(value: Any) -> Any:
    """Header fields as pairs, from a mapping (a list repeats the name) or a list of [name, value]."""
    if isinstance(value, Mapping):
        return [[str(name), str(item)] for name, items in value.items() for item in (items if isinstance(items, list) else [items])]
    if isinstance(value, list | tuple) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in value):
        return [[str(name), str(item)] for name, item in value]
    raise ValueError("header fields are a mapping, or a list of [name, value]")


def _counts(names: Any) -> Any:
    """How often something must have happened at each upstream, from a name (once), a list of names, or a mapping to numbers."""
    return names if isinstance(names, Mapping) else dict.fromkeys([names] if isinstance(names, str) else names, 1)


_FIELD: Final = {"type": ["string", "number", "boolean"]}
_FIELDS: Final = {"type": "object", "additionalProperties": {"anyOf": [_FIELD, {"type": "array", "items": _FIELD}]}}
_NAMES: Final = [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
_COUNTS: Final = {"type": "object", "additionalProperties": {"type": "integer", "minimum": 1}}

HeaderPairs = Annotated[
    list[list[str]],
    BeforeValidator(_pairs),
    WithJsonSchema({"anyOf": [_FIELDS, {"type": "array", "items": {"type": "array", "items": _FIELD, "minItems": 2, "maxItems": 2}}]}),
]
Counts = Annotated[dict[str, int], BeforeValidator(_counts), WithJsonSchema({"anyOf": [*_NAMES, _COUNTS]})]
Bytes = Annotated[str | bytes, WithJsonSchema({"type": "string"})]
"""Bytes, or text of which each character is one byte (Latin-1)."""


class Drip(Model):
    """Writes the answer in pieces."""

    bytes_: int = Field(alias="bytes", ge=1)
    """Size of a piece."""
    every_s: float = Field(ge=0)
    """Seconds between two pieces."""


class Behaviour(Model):
    """What happens to one request: the answer, its framing, its time, its faults."""

    status: int = 200
    """Status code."""
    reason: str | None = None
    """Reason phrase. Default: the status code's own."""
    headers: HeaderPairs = []
    """Header fields: a mapping, in which a list repeats the name, or a list of [name, value]."""
    json_: Any = Field(None, alias="json")
    """The body: JSON."""
    body: Annotated[str | bytes | None, WithJsonSchema({"type": "string"})] = None
    """The body: text in UTF-8."""
    bytes_: Bytes | None = Field(None, alias="bytes")
    """The body: text of which each character is one byte, such as `"\\xff"`."""
    size: int | None = Field(None, ge=0)
    """The body: this many bytes of `x`."""
    echo: bool = False
    """The body: the request as JSON, with its method, target, path, query, headers, body and params."""
    template: Any = None
    """The body: JSON whose strings `{method}`, `{path}`, `{query.NAME}`, `{headers.NAME}`, `{body.FIELD}` and `{params.NAME}` are replaced. A
    string that is one reference keeps the JSON type."""
    repeat: int = Field(1, ge=1)
    """How often `body`, `bytes` or `raw_repeat` is repeated: large answers without large files."""
    encoding: str | None = None
    """Content coding of the body: gzip, deflate, br or zstd. Any other is named, and the body left as it is."""
    http: Annotated[str, BeforeValidator(str), WithJsonSchema({"enum": ["1.0", "1.1", 1.0, 1.1]})] = "1.1"
    """HTTP version of the status line. 1.0 closes the connection."""
    chunked: bool | int = False
    """Chunked framing: true, or the size of a chunk."""
    chunk_extension: str = ""
    """Text behind the size of each chunk, such as `;name=value`."""
    trailers: HeaderPairs = []
    """Fields behind the last chunk."""
    content_length: int | bool | None = None
    """A number: this Content-Length, whatever the size of the body. False: none, so that the end of the connection ends the body."""
    raw: Bytes | None = None
    """Written instead of everything above: text of which each character is one byte. The connection closes behind it."""
    raw_repeat: str = ""
    """Written `repeat` times behind `raw`."""
    interim: list[int | Bytes] = []
    """Interim answers that are sent first: 1xx status codes, or text."""
    after: Bytes = b""
    """Written directly behind the answer."""
    delay_s: float = Field(0.0, ge=0)
    """Seconds before the first byte, after the waits for `once_hit`, `once_aborted` and `once_answered`."""
    drip: Drip | None = None
    """Write the answer in pieces."""
    hang: bool = False
    """Never answer."""
    once_hit: Counts = {}
    """Hold the answer until these upstreams have received so many requests, the one that is being answered included."""
    once_aborted: Counts = {}
    """Hold the answer until the gateway has closed the connection during so many answers of these upstreams."""
    once_answered: int = Field(0, ge=0)
    """Hold the answer until the client has so many."""
    truncate_after: int | None = Field(None, ge=0)
    """Close the connection after so many bytes of the body, framing included."""
    reset: ResetPoint | Annotated[int, Field(ge=0)] | None = None
    """Reset the connection: at the `request` once its head is read, instead of the `answer`, behind the head of the answer (`body`), or after a
    number of bytes of its body."""
    close: bool = False
    """Close the connection behind the answer without saying so."""
    early: bool = False
    """Answer without reading the request's body, which is then read and dropped."""

    @model_validator(mode="after")
    def _consistent(self) -> "Behaviour":
        given = {field.alias or name for name, field in type(self).model_fields.items() if name in self.model_fields_set}
        bodies = [name for name in ("json", "body", "bytes", "size", "echo", "template") if name in given]
        if len(bodies) > 1:
            raise ValueError(f"an answer has only one of {', '.join(bodies)}")
        if self.raw_repeat and self.raw is None:
            raise ValueError("raw_repeat goes with raw")
        if self.repeat > 1 and not self.raw_repeat and not {"body", "bytes"} & given:
            raise ValueError("repeat goes with body, bytes or raw_repeat")
        return self

    @property
    def has_json(self) -> bool:
        return "json_" in self.model_fields_set

    @property
    def waits_for(self) -> frozenset[str]:
        """The upstreams whose record decides when the answer goes out."""
        return frozenset({*self.once_hit, *self.once_aborted})

    @property
    def ends_connection(self) -> bool:
        """The client cannot know where the answer ends, or must not go on: the connection is closed behind it."""
        is_said = any(name.lower() == "connection" and "close" in value.lower() for name, value in self.headers)
        return self.close or is_said or self.raw is not None or self.http == "1.0" or self.content_length is False

    def render(self, hit: Hit) -> tuple[bytes, bytes]:
        """The bytes up to and with the empty line of the head, and the framed body behind it. `raw` is all head."""
        if self.raw is not None:
            return _latin(self.raw) + _latin(self.raw_repeat) * self.repeat, b""
        head = b"".join(_latin(f"HTTP/1.1 {item} Interim\r\n\r\n" if isinstance(item, int) else item) for item in self.interim)
        body = self._content(hit)
        has_body = self.status not in _BODILESS and hit.method != "HEAD"
        lines = [f"HTTP/{self.http} {self.status} {self.reason if self.reason is not None else _phrase(self.status)}"]
        pairs = [(name, value) for name, value in self.headers]
        names = {name.lower() for name, _ in pairs}
        if "content-type" not in names and (self.has_json or self.echo or self.template is not None):
            pairs.append(("content-type", "application/json"))
        if self.encoding is not None and "content-encoding" not in names:
            pairs.append(("content-encoding", self.encoding))
        if self.chunked:
            pairs.append(("transfer-encoding", "chunked"))
        elif self.content_length is not False and "content-length" not in names and self.status not in _BODILESS:
            is_lie = isinstance(self.content_length, int) and not isinstance(self.content_length, bool)
            pairs.append(("content-length", str(self.content_length if is_lie else len(body))))
        lines += [f"{name}: {value}" for name, value in pairs]
        head += _latin("\r\n".join(lines) + "\r\n\r\n")
        if not has_body:
            body = b""
        elif self.chunked:
            body = self._chunks(body)
        return head, body + _latin(self.after)

    def _content(self, hit: Hit) -> bytes:
        if self.echo:
            content = json.dumps(hit.echo()).encode()
        elif self.template is not None:
            content = json.dumps(_fill(self.template, hit.echo())).encode()
        elif self.has_json:
            content = json.dumps(self.json_).encode()
        elif self.size is not None:
            content = b"x" * self.size
        elif self.bytes_ is not None:
            content = _latin(self.bytes_) * self.repeat
        else:
            content = (self.body.encode() if isinstance(self.body, str) else self.body or b"") * self.repeat
        return encode(content, self.encoding)

    def _chunks(self, content: bytes) -> bytes:
        step = len(content) or 1
        if not isinstance(self.chunked, bool):
            step = self.chunked
        extension = _latin(self.chunk_extension)
        pieces = [content[at : at + step] for at in range(0, len(content), step)]
        trailers = "".join(f"{name}: {value}\r\n" for name, value in self.trailers)
        return b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces) + _latin(f"0\r\n{trailers}\r\n")


def encode(content: bytes, coding: str | None) -> bytes:
    """`content` in one content coding; unknown codings leave it as it is, so that a service can lie."""
    if coding in {"gzip", "x-gzip"}:
        return gzip.compress(content, mtime=0)
    if coding == "deflate":
        return zlib.compress(content)
    if coding == "br":
        return bytes(brotli.compress(content))
    if coding == "zstd":
        return bytes(zstd.compress(content))
    return content


def _latin(text: str | bytes) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Scripted"


def _fill(template: Any, values: dict[str, Any]) -> Any:
    if isinstance(template, dict):
        return {key: _fill(item, values) for key, item in template.items()}
    if isinstance(template, list):
        return [_fill(item, values) for item in template]
    if not isinstance(template, str) or "{" not in template:
        return template
    if template.startswith("{") and template.find("}") == len(template) - 1:
        return _look_up(template[1:-1], values)
    text = ""
    for part in template.split("{"):
        reference, brace, rest = part.partition("}")
        text += f"{_look_up(reference, values)}{rest}" if brace else part
    return text


def _look_up(reference: str, values: Any) -> Any:
    for name in reference.split("."):
        if isinstance(values, list):
            values = values[int(name)] if name.isdigit() and int(name) < len(values) else None
        else:
            values = values.get(name) if isinstance(values, dict) else None
    return unquote(values) if reference.startswith("params.") and isinstance(values, str) else values
