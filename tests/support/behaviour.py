"""The scripted response to one request: parsed from a plain dict, rendered to the bytes sent on the wire.

Implements HTTP/1.1 framing and ways to break it. Uses no socket and no clock: `tests.support.scripted` sends the rendered bytes.
"""

import gzip
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, Literal
from urllib.parse import parse_qs, unquote

import brotli
from backports import zstd

ResetPoint = Literal["request", "answer", "body"]

_BODILESS: Final = frozenset({204, 304})


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One request as received. `headers`: lower-case names, in order, repeats kept. `connection`: 0 for the first one accepted."""

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
        """The body as JSON, or None when it is empty or not JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    def echo(self) -> dict[str, Any]:
        """The request as `echo` and templates see it."""
        return {
            "method": self.method,
            "target": self.target,
            "path": self.path,
            "query": {name: values[0] if len(values) == 1 else values for name, values in self.query.items()},
            "headers": dict(self.headers),
            "body": self.json() if self.json() is not None else self.body.decode("latin-1") or None,
            "params": self.params,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How the upstream handles one request. The keys of a behaviour's dict are the names of these fields.

    The response: `status`; `reason`; `headers` (a mapping, or a list of [name, value]); one of `json` (any JSON), `body` (text or
    bytes), `size` (that many bytes of `x`), `echo: true` (the request as JSON: method, target, path, query, headers, body, params)
    or `template` (JSON whose strings `{method}`, `{path}`, `{query.NAME}`, `{headers.NAME}`, `{body.FIELD}`, `{params.NAME}` are
    replaced; a string that is one reference keeps the JSON type); `encoding` (gzip, deflate, br, zstd); `http` ("1.1" or "1.0").
    Framing: content-length by default; `chunked` (true, or the size of a chunk), `chunk_extension`, `trailers`; `content_length`
    (an int: a false length; false: none, so that the end of the connection ends the body); `raw` (text as latin-1, or bytes: sent
    instead of everything above); `interim` (1xx status codes, or raw text, sent first).
    Time: `delay_s` before the first byte; `drip` ({bytes, every_s}: everything is sent in pieces); `hang` (never responds).
    Order, by events instead of time: the response is held until other upstreams have been hit (`once_hit`), until the gateway has
    closed the connection during the given number of their responses (`once_aborted`), or until the client has received the given number
    of responses (`once_answered`, a number). The first two are a name (once), a list of names, or a mapping from names to numbers; the
    upstream's own name is valid too. `delay_s` starts after them.
    Faults: `truncate_after` (closes after that many bytes of the body as framed); `reset` (RST: `request` once the head is read,
    `answer` instead of the response, `body` after the head, or after that many bytes of the body as framed); `close` (closes after the
    response without announcing it); `early` (responds before reading the request's body, which is then read and discarded);
    `after` (text or bytes sent directly after the response).
    """

    status: int = 200
    reason: str | None = None
    headers: Any = ()
    json: Any = None
    body: str | bytes | None = None
    size: int | None = None
    echo: bool = False
    template: Any = None
    encoding: str | None = None
    http: str = "1.1"
    chunked: bool | int = False
    chunk_extension: str = ""
    trailers: Any = ()
    content_length: int | bool | None = None
    raw: str | bytes | None = None
    interim: Any = ()
    delay_s: float = 0.0
    drip: Mapping[str, float] | None = None
    hang: bool = False
    once_hit: Mapping[str, int] = field(default_factory=dict)
    once_aborted: Mapping[str, int] = field(default_factory=dict)
    once_answered: int = 0
    truncate_after: int | None = None
    reset: ResetPoint | int | None = None
    close: bool = False
    early: bool = False
    after: str | bytes = b""
    has_json: bool = False

    @classmethod
    def of(cls, spec: "Mapping[str, Any] | Behaviour") -> "Behaviour":
        if isinstance(spec, Behaviour):
            return spec
        held = {key: _numbers(spec[key]) for key in ("once_hit", "once_aborted") if key in spec}
        return cls(**{**spec, **held, "has_json": "json" in spec})

    @property
    def waits_for(self) -> frozenset[str]:
        """The upstreams whose record determines when the response is sent."""
        return frozenset({*self.once_hit, *self.once_aborted})

    @property
    def ends_connection(self) -> bool:
        """Whether the connection closes after the response: the client cannot tell where the response ends, or must not reuse the
        connection."""
        is_announced = any(name.lower() == "connection" and "close" in value.lower() for name, value in _pairs(self.headers))
        return self.close or is_announced or self.raw is not None or self.http == "1.0" or self.content_length is False

    def render(self, hit: Hit) -> tuple[bytes, bytes]:
        """The bytes of the head, with its empty line, and the framed body. `raw` counts as head entirely."""
        if self.raw is not None:
            return _bytes(self.raw), b""
        head = b"".join(_bytes(f"HTTP/1.1 {item} Interim\r\n\r\n" if isinstance(item, int) else item) for item in self.interim)
        body = self._content(hit)
        has_body = self.status not in _BODILESS and hit.method != "HEAD"
        lines = [f"HTTP/{self.http} {self.status} {self.reason if self.reason is not None else _phrase(self.status)}"]
        pairs = _pairs(self.headers)
        names = {name.lower() for name, _ in pairs}
        if "content-type" not in names and (self.has_json or self.echo or self.template is not None):
            pairs.append(("content-type", "application/json"))
        if self.encoding is not None and "content-encoding" not in names:
            pairs.append(("content-encoding", self.encoding))
        if self.chunked:
            pairs.append(("transfer-encoding", "chunked"))
        elif self.content_length is not False and "content-length" not in names and self.status not in _BODILESS:
            length = self.content_length if self.content_length not in {None, True} else len(body)
            pairs.append(("content-length", str(length)))
        lines += [f"{name}: {value}" for name, value in pairs]
        head += _bytes("\r\n".join(lines) + "\r\n\r\n")
        if not has_body:
            body = b""
        elif self.chunked:
            body = self._chunks(body)
        return head, body + _bytes(self.after)

    def _content(self, hit: Hit) -> bytes:
        if self.echo:
            content = json.dumps(hit.echo()).encode()
        elif self.template is not None:
            content = json.dumps(_fill(self.template, hit.echo())).encode()
        elif self.has_json:
            content = json.dumps(self.json).encode()
        elif self.size is not None:
            content = b"x" * self.size
        else:
            content = _bytes(self.body or b"")
        return encode(content, self.encoding)

    def _chunks(self, content: bytes) -> bytes:
        step = len(content) or 1
        if not isinstance(self.chunked, bool):
            step = self.chunked
        ext = self.chunk_extension
        parts = [
            b"%x%b\r\n%b\r\n" % (len(content[at : at + step]), _bytes(ext), content[at : at + step]) for at in range(0, len(content), step)
        ]
        trailers = "".join(f"{name}: {value}\r\n" for name, value in _pairs(self.trailers))
        return b"".join(parts) + _bytes(f"0\r\n{trailers}\r\n")


def encode(content: bytes, coding: str | None) -> bytes:
    """`content` in one content coding. Unknown codings leave it unchanged, so that a service can declare a false coding."""
    if coding in {"gzip", "x-gzip"}:
        return gzip.compress(content, mtime=0)
    if coding == "deflate":
        return zlib.compress(content)
    if coding == "br":
        return bytes(brotli.compress(content))
    if coding == "zstd":
        return bytes(zstd.compress(content))
    return content


def _numbers(names: str | list[str] | Mapping[str, int]) -> Mapping[str, int]:
    if isinstance(names, Mapping):
        return names
    return dict.fromkeys([names] if isinstance(names, str) else names, 1)


def _bytes(text: str | bytes) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text


def _pairs(headers: Any) -> list[tuple[str, str]]:
    items = headers.items() if isinstance(headers, Mapping) else headers
    return [(str(name), str(value)) for name, value in items]


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
