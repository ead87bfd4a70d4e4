"""What may stand in a spec file. Strict: an unknown key is an error, so that no expectation is silently not checked.

The format is described for its writers in docs/specs.md. Nothing here opens a file or a socket.
"""

import re
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, WithJsonSchema, model_validator

from anabranch.config.base import Model
from anabranch.config.units import Duration, Size
from anabranch.testing.application import settings_of
from anabranch.testing.scripted.upstream import Script

# Unions are told apart by the type of the value: a mistake in a mapping is then reported for the mapping alone.
_TAGS: Final = {str: "text", dict: "mapping", list: "list", NoneType: "null"}
_BY_TYPE: Final = Discriminator(lambda value: _TAGS.get(type(value)))


def _must_be(expected: str, *types: type) -> BeforeValidator:
    def check(value: Any) -> Any:
        if type(value) not in types:
            raise ValueError(f"must be {expected}")
        return value

    return BeforeValidator(check)


def _is_pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return value


@dataclass(frozen=True, slots=True)
class Count:
    """How often something may have happened."""

    low: int
    high: int

    def allows(self, number: int) -> bool:
        return self.low <= number <= self.high

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}..{self.high}"


def _count(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return Count(value, value)
    match = re.fullmatch(r"(\d+)\.\.(\d+)", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be a number, or a range such as 1..2")
    return Count(int(match[1]), int(match[2]))


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


Times = Annotated[
    Count, BeforeValidator(_count), WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string", "pattern": r"^\d+\.\.\d+$"}]})
]
Pattern = Annotated[str, AfterValidator(_is_pattern)]


class Text(Model):
    """A text that is not known to the letter."""

    contains: str | None = None
    """It contains this."""
    excludes: str | None = None
    """It does not contain this."""
    matches: Pattern | None = None
    """All of it matches this regular expression."""

    @model_validator(mode="after")
    def _says_something(self) -> "Text":
        if not self.model_fields_set:
            raise ValueError("one of contains, excludes, matches")
        return self

    def fault(self, value: str) -> str:
        """What is wrong with `value`; "" when nothing is."""
        if self.contains is not None and self.contains not in value:
            return f"expected it to contain {self.contains!r}"
        if self.excludes is not None and self.excludes in value:
            return f"expected it not to contain {self.excludes!r}"
        if self.matches is not None and re.fullmatch(self.matches, value) is None:
            return f"expected it to match {self.matches!r}"
        return ""


_SOME_TEXT: Final = "a string, or a mapping of contains, excludes or matches"
SomeText = Annotated[
    Annotated[str, Tag("text")] | Annotated[Text, Tag("mapping")], _BY_TYPE, _must_be(_SOME_TEXT, str, dict)
]  # fmt: skip
"""An exact text, or a `Text`."""
Headers = dict[
    str,
    Annotated[
        Annotated[str, Tag("text")] | Annotated[list[str], Tag("list")] | Annotated[Text, Tag("mapping")] | Annotated[None, Tag("null")],
        _BY_TYPE,
        _must_be(f"{_SOME_TEXT}, or a list of strings, or null", str, dict, list, NoneType),
    ],
]
"""Exact value; null: must be absent; list: every occurrence in order; or a Text."""
Sending = dict[
    str,
    Annotated[
        Annotated[str, Tag("text")] | Annotated[list[str], Tag("list")], _BY_TYPE, _must_be("a string, or a list of strings", str, list)
    ],
]
"""Header fields to send; a list repeats the name."""


class Expect(Model):
    """What one answer must be."""

    status: int
    """The status code."""
    headers: Headers = {}
    """Header fields: the exact value, a list with every occurrence, null for none, or one of contains, excludes, matches."""
    json_: Any = Field(None, alias="json")
    """The exact body as JSON, type for type."""
    body: SomeText | None = None
    """The exact body in UTF-8; or one of contains, excludes, matches."""
    problem: dict[str, Any] | None = None
    """What the problem document must contain at least. Also checks its content type."""
    within: Duration | None = None
    """Longest response time."""
    not_before: Duration | None = None
    """Shortest response time."""


FormField = str | int | float | bool
"""A text of a form, or what is written as one."""


class _Content(Model):
    filename: str | None = None
    """The name of the file; without it the part is a text."""
    content_type: str | None = None
    """Its content type."""
    text: str | None = None
    """Its content in UTF-8."""
    bytes_: str | None = Field(None, alias="bytes")
    """Its content, as text of which each character is one byte."""

    @model_validator(mode="after")
    def _has_one_content(self) -> "_Content":
        if self.text is not None and self.bytes_ is not None:
            raise ValueError("a part has only one of text and bytes")
        return self


class Part(_Content):
    """One part of a multipart body that the client sends."""

    size: Size | None = None
    """Its content: so many bytes `x`."""
    headers: dict[str, str] = {}
    """Further header fields of the part."""

    @property
    def content(self) -> bytes:
        if self.size is not None:
            return b"x" * self.size
        return (self.text or "").encode() if self.bytes_ is None else self.bytes_.encode("latin-1")


class SeenPart(_Content):
    """What one part of a multipart body must be."""

    size: int | None = None
    """Size of its content in bytes."""

    @property
    def content(self) -> bytes | None:
        """The exact content; None for any."""
        if self.bytes_ is not None:
            return self.bytes_.encode("latin-1")
        return None if self.text is None else self.text.encode()


def _parts_of(kind: type[_Content]) -> BeforeValidator:
    def read(value: Any) -> Any:
        return kind.model_validate(value) if isinstance(value, dict) else value

    return BeforeValidator(read)


SentPart = Annotated[FormField | Part, _parts_of(Part)]
ExpectedPart = Annotated[FormField | SeenPart, _parts_of(SeenPart)]


class Sent(Model):
    """One request of the client, and what must come back."""

    send: Annotated[str, Field(pattern=r"^\S+ \S+$")] | None = None
    """Method and target, sent as they stand: `GET /it/a%2Fb?x=1`."""
    raw: str | None = None
    """Instead of `send`, `headers` and a body: everything that is sent, as text of which each character is one byte."""
    headers: Sending = {}
    """Header fields in UTF-8; a list repeats the name, an empty value leaves out a field that the client adds."""
    json_: Any = Field(None, alias="json")
    """The body: JSON."""
    body: str | None = None
    """The body: text in UTF-8."""
    bytes_: str | None = Field(None, alias="bytes")
    """The body: text of which each character is one byte, such as `"\\xff"`."""
    form: dict[str, FormField | list[FormField]] | None = None
    """The body: a form, with its content type. A list repeats the name."""
    multipart: dict[str, SentPart | list[SentPart]] | None = None
    """The body: multipart/form-data, with its content type. A part is a text, or a mapping of filename, content_type, headers, and one of text, bytes and
    size. A list repeats the name."""
    body_size: Size | None = None
    """The body: a JSON string of so many bytes."""
    repeat: int = Field(1, ge=1)
    """How often the body is repeated."""
    chunks: int | None = Field(None, ge=1)
    """Send the body in chunks of so many bytes."""
    half_close: bool = False
    """End the client's sending side behind the request, and wait for the answer."""
    times: int = Field(1, ge=1)
    """How often the request is sent."""
    wait: Duration | None = None
    """Wait so long before the request, after the waits of the other keys."""
    after_hits: dict[str, int] = {}
    """Wait until the upstreams have received so many requests."""
    after_aborted: dict[str, int] = {}
    """Wait until the gateway has closed the connection during so many answers of the upstreams."""
    after_answers: int = Field(0, ge=0)
    """Wait until the client has so many answers."""
    leave_after_hits: dict[str, int] | None = None
    """Instead of `expect`: the client disconnects when the upstreams have received so many requests."""
    expect: Annotated[list[Expect], Field(min_length=1), BeforeValidator(_listed)] | None = None
    """The answer; with `raw`, also a list of the answers to the requests in it."""

    @model_validator(mode="after")
    def _consistent(self) -> "Sent":
        given = {field.alias or name for name, field in type(self).model_fields.items() if name in self.model_fields_set}
        bodies = [name for name in ("json", "body", "bytes", "form", "multipart", "body_size") if name in given]
        if (self.send is None) == (self.raw is None):
            raise ValueError("a request has either send or raw")
        if self.raw is not None and (also := [*bodies, *given.intersection({"headers", "repeat", "chunks"})]):
            raise ValueError(f"raw is all that is sent: {also[0]} has no effect")
        if len(bodies) > 1:
            raise ValueError(f"a request has only one of {', '.join(bodies)}")
        if not bodies and (also := sorted(given.intersection({"repeat", "chunks"}))):
            raise ValueError(f"{also[0]} goes with a body")
        if (self.expect is None) == (self.leave_after_hits is None):
            raise ValueError("a request has either expect or leave_after_hits")
        if self.expect is not None and len(self.expect) > 1 and self.raw is None:
            raise ValueError("several answers go with raw: one request has one answer")
        return self

    @property
    def method(self) -> str:
        return (self.send or self.raw or "").partition(" ")[0]

    @property
    def title(self) -> str:
        return self.send or (self.raw or "").partition("\r\n")[0].removesuffix(" HTTP/1.1")


class Seen(Model):
    """What an upstream must have received in one request."""

    method: str | None = None
    """The method."""
    target: SomeText | None = None
    """Path and query as they came."""
    headers: Headers = {}
    """Header fields, as in `expect`; each byte is shown as one character."""
    json_: Any = Field(None, alias="json")
    """The exact body as JSON."""
    body: str | None = None
    """The exact body in UTF-8."""
    form: dict[str, FormField | list[FormField]] | None = None
    """The exact fields of an urlencoded body."""
    multipart: dict[str, ExpectedPart | list[ExpectedPart]] | None = None
    """The parts of a multipart body in order: a text, or a mapping of filename, content_type, text, bytes and size, of which each that is given must be
    so."""


class ExpectedProblem(Model):
    """One mistake that must be found in a document."""

    path: str
    """Where in the document, as the message writes it: `endpoints[0].steps.a.timeout`."""
    message: SomeText = ""
    """What the message contains."""
    hint: SomeText = ""
    """What the hint contains."""
    is_warning: bool = False
    """It is only a warning."""


def _are_settings(value: dict[str, Any]) -> dict[str, Any]:
    settings_of(value)
    return value


ProcessSettings = Annotated[dict[str, Any], AfterValidator(_are_settings)]
Hits = Annotated[
    Annotated[Times, Tag("number")] | Annotated[dict[Annotated[str, Field(pattern="^/")], Times], Tag("mapping")],
    Discriminator(lambda value: "mapping" if isinstance(value, dict) else "number"),
]


class Shared(Model):
    """What may stand at the top of a spec file, beside its cases, and holds for each of them."""

    about: str
    """What the file is about, in a sentence."""
    document: str | None = None
    """The gateway document under test: a file or folder, from this file's folder. `anabranch test --config` overrides it."""
    upstreams: dict[str, Script] = {}
    """Scripted upstreams of every case. A case replaces the routes that its own ones cover."""
    env: dict[str, str] = {}
    """Environment variables of every case."""
    settings: ProcessSettings = {}
    """Settings of the process in every case."""


class Case(Model):
    """One behaviour of the gateway."""

    name: str
    """The behaviour, as a statement that is true when the case passes. Unique in its file."""
    document: dict[str, Any] | str | None = None
    """Instead of the document under test: a whole document, as a mapping or as text."""
    endpoint: dict[str, Any] | None = None
    """Instead of a document: one endpoint, of which a document is made."""
    upstreams: dict[str, Script] = {}
    """The scripted upstreams, by name."""
    configure: dict[str, dict[str, Any]] = {}
    """With `endpoint`: settings of the document's upstreams."""
    env: dict[str, str] = {}
    """Environment variables."""
    files: dict[str, str] = {}
    """Files by name, in a folder that an inline document can name as `{folder}`."""
    settings: ProcessSettings = {}
    """Settings of the process, such as `allow_explain: true`."""
    requests: list[Sent] = []
    """The client's requests, one after the other."""
    together: bool = False
    """Send all requests at once."""
    hits: dict[str, Hits] | None = None
    """How many requests each upstream receives: a number, a range `1..2`, or one of these for each path. An upstream that is not listed must
    not receive any."""
    seen: dict[str, list[Seen]] = {}
    """The requests that an upstream receives, in order of arrival."""
    aborted: dict[str, Times] = {}
    """During how many answers of an upstream the gateway closes the connection."""
    peak: dict[str, Times] = {}
    """How many requests an upstream has at once, at most."""
    connections: dict[str, Times] = {}
    """How many connections an upstream accepts."""
    expect_problems: list[ExpectedProblem] | None = None
    """Instead of `requests`: the document is rejected, with exactly these mistakes."""

    @property
    def is_inline(self) -> bool:
        """Whether the case has a document of its own."""
        return self.document is not None or self.endpoint is not None

    @model_validator(mode="after")
    def _consistent(self) -> "Case":
        if self.document is not None and self.endpoint is not None:
            raise ValueError("a case has only one of document and endpoint (a document of that one endpoint)")
        if self.configure and self.endpoint is None:
            raise ValueError("configure goes with endpoint; a document says itself how its upstreams are configured")
        if (self.expect_problems is None) == (not self.requests):
            raise ValueError("a case has either requests or expect_problems")
        if self.is_inline:
            self._check_upstreams()
        return self

    def _check_upstreams(self) -> None:
        if self.upstreams and self.expect_problems is None and self.hits is None:
            raise ValueError("a case with upstreams says how often they are hit: hits")
        for unknown in self.checked_upstreams - set(self.upstreams):
            raise ValueError(f"there is no upstream {unknown} in this case")

    @property
    def checked_upstreams(self) -> set[str]:
        """The upstreams of which the case expects something, or waits for something."""
        checked: list[dict[str, Any]] = [self.hits or {}, self.seen, self.aborted, self.peak, self.connections]
        checked += [request.after_hits for request in self.requests]
        checked += [request.after_aborted for request in self.requests]
        checked += [request.leave_after_hits or {} for request in self.requests]
        return {name for names in checked for name in names}


class SpecFile(Shared):
    """A spec file of a gateway."""

    cases: list[Case] = Field(min_length=1)
    """What is tested, case by case."""
