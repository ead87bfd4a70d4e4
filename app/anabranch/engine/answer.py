"""An answer of an upstream as code in Python sees it: status, header fields and body."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from anabranch.core.exchange import Answer
from anabranch.core.field import OURS
from anabranch.core.negotiation import MediaType
from anabranch.jsontext import raw
from anabranch.jsontext.values import load

_NOT_OF_THE_BODY: Final = frozenset({*(name.encode() for name in OURS), b"content-encoding"}) - {b"content-length"}
"""Fields of the connection, and of how the body was sent. Code that passes fields on must not pass these on: the body is decoded."""


class Fields(Mapping[str, str]):
    """Header fields by name, in any case. The value of a repeated one is joined by commas (RFC 9110 section 5.3); `all` has each of them.

    Iteration gives the names in lower case, each once.
    """

    __slots__ = ("_pairs",)

    def __init__(self, pairs: list[tuple[bytes, bytes]]) -> None:
        self._pairs = [(name.decode("latin-1"), value.decode(errors="replace")) for name, value in pairs]

    def __getitem__(self, name: str) -> str:
        found = self.all(name)
        if not found:
            raise KeyError(name)
        return ", ".join(found)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name for name, _ in self._pairs))

    def __len__(self) -> int:
        return len({name for name, _ in self._pairs})

    def __repr__(self) -> str:
        """The names only: values may be secrets, and reprs end up in logs."""
        return f"Fields({', '.join(self)})"

    def all(self, name: str) -> list[str]:
        """Every value of a field, such as of `set-cookie`, whose values cannot be joined."""
        name = name.lower()
        return [value for key, value in self._pairs if key == name]


class FanAnswer:
    """One answer, of any status.

    `body`: its bytes, without content coding. `headers`: without fields of the connection and of how the body was sent, so that they may be passed on
    with it; `content-length` is there only without a body, as in the answer to HEAD.
    """

    __slots__ = ("body", "headers", "status")

    def __init__(self, answer: Answer) -> None:
        self.status = answer.status
        left_out = {*_NOT_OF_THE_BODY, b"content-length"} if answer.body else _NOT_OF_THE_BODY
        self.headers = Fields([pair for pair in answer.headers if pair[0] not in left_out])
        self.body = answer.body

    def __repr__(self) -> str:
        return f"FanAnswer({self.status}, {len(self.body)} bytes)"

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    @property
    def text(self) -> str:
        """The body as text, by the charset of its content type; UTF-8 without one. What is no character becomes U+FFFD."""
        try:
            charset = dict(MediaType.parse(self.headers.get("content-type", "")).parameters).get("charset", "utf-8")
            return self.body.decode(charset, "replace")
        except (ValueError, LookupError):
            return self.body.decode(errors="replace")

    def json(self) -> Any:
        """The body as JSON; None for an empty one. Raises InvalidJSON, which ends the request with 502 if the route does not catch it."""
        body = raw.prepare(self.body)
        try:
            return load(body)
        except (msgspec.DecodeError, RecursionError) as error:
            raise raw.invalid(body, error) from None
