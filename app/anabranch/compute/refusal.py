"""`Refused`: what a user's function raises when it decides that the request gets no response but a problem, and how that is passed on.

Imports little: functions raise it in worker processes and on clusters.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec

from anabranch.core.field import OURS_IN_RESPONSES, name_fault, value_fault
from anabranch.errors import ComputeRefused
from anabranch.jsontext.values import dump

_RESERVED: Final = ("type", "title", "status", "detail", "instance")
_OF_PROBLEMS: Final = frozenset({"cache-control", "content-type"})
"""A problem has a media type of its own, and no cache may keep it."""
_MOST_TITLE_CHARS: Final = 200
_MOST_DETAIL_CHARS: Final = 4000
_MOST_HEADER_BYTES: Final = 2048
"""All of a response's head should fit into 4 KiB: many proxies take no more by default."""
_MOST_EXTRA_BYTES: Final = 64 * 1024
_CONTROLS: Final = dict.fromkeys((*range(32), 127), " ")
_CONTROLS_IN_LINES: Final = {code: char for code, char in _CONTROLS.items() if code not in (0x09, 0x0A)}


class Refused(Exception):
    """Raised by a hook or a route in Python: the client gets a problem document (RFC 9457) instead of the response.

    In a hook of a required step it is the response. In a hook of an optional step it is a failure with the code `refused`: the step has its
    default.

    `status`: 400 to 599. `title`: a few words, the status's own by default. `detail`: a text for the client; the title by default.
    `headers`: added to the response. `extra`: further members of the problem document, any JSON.
    Control characters in title and detail become spaces (a detail keeps its line breaks), and what exceeds 200 and 4000 characters is cut off.

    Raises ValueError or TypeError for anything else that cannot be sent: another status, a header field that is invalid or that the gateway
    sets itself (hop-by-hop fields, `content-type`, `cache-control`), more than 2 KiB of header fields, an extra member that replaces a
    standard one, `errors` that are no list of objects, extra members that are not JSON or take more than 64 KiB.
    """

    def __init__(
        self,
        status: int,
        title: str = "",
        detail: str = "",
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        # All of them by position, because that is how an exception is pickled.
        super().__init__(status, title, detail, headers, extra)
        if not isinstance(status, int) or isinstance(status, bool) or not 400 <= status <= 599:
            raise ValueError(f"the status of a refusal must be between 400 and 599, not {status!r}")
        self.status = int(status)
        self.title = _bounded(" ".join(_text("title", title).translate(_CONTROLS).split()), _MOST_TITLE_CHARS) or _phrase(self.status)
        lines = _text("detail", detail).replace("\r\n", "\n").translate(_CONTROLS_IN_LINES)
        self.detail = _bounded(lines.strip(), _MOST_DETAIL_CHARS) or self.title
        self.headers = _checked_headers({} if headers is None else headers)
        self.extra = dict({} if extra is None else extra)
        self._extra_text = _checked_extra(self.extra)

    def __str__(self) -> str:
        return f"{self.status} {self.title}" if self.detail == self.title else f"{self.status} {self.title}: {self.detail}"

    @property
    def refusal(self) -> "Refusal":
        """What is passed on of it."""
        headers = [(name.encode(), value.encode()) for name, value in self.headers.items()]
        return Refusal(self.status, self.title, self.detail, headers, self._extra_text)


class Refusal(msgspec.Struct, frozen=True):
    """A refusal as plain data. `headers`: names in lower case. `members`: JSON text of each further member of the problem document."""

    status: int
    title: str
    detail: str
    headers: list[tuple[bytes, bytes]]
    members: dict[str, bytes]

    def to_error(self) -> ComputeRefused:
        return ComputeRefused(self.status, self.title, self.detail, tuple(self.headers), self.members)


pack: Final = msgspec.msgpack.Encoder().encode
unpack: Final = msgspec.msgpack.Decoder(Refusal).decode


def _text(what: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"the {what} of a refusal must be a text, not {type(value).__name__}")
    # Half of a surrogate pair is no character, and JSON in UTF-8 cannot contain it.
    return value.encode(errors="replace").decode()


def _bounded(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Refused"


def _checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    checked: dict[str, str] = {}
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError("header fields of a refusal must be texts")
        if (fault := name_fault(name) or value_fault(value)) is not None:
            raise ValueError(fault)
        if name.lower() in OURS_IN_RESPONSES or name.lower() in _OF_PROBLEMS:
            raise ValueError(f"the header {name.lower()} of a refusal is set by the gateway itself")
        value.encode()
        checked[name.lower()] = value.strip()
    if sum(len(name) + len(value.encode()) for name, value in checked.items()) > _MOST_HEADER_BYTES:
        raise ValueError(f"the header fields of a refusal must not take more than {_MOST_HEADER_BYTES} bytes")
    return checked


def _checked_extra(extra: Mapping[str, Any]) -> dict[str, bytes]:
    for name in extra:
        if not isinstance(name, str) or not name:
            raise TypeError("an extra member of a refusal must have a name")
        if name in _RESERVED:
            raise ValueError(f"an extra member of a refusal cannot be called {name!r}: the problem document has one of that name")
    errors = extra.get("errors", [])
    if not isinstance(errors, list) or not all(isinstance(item, Mapping) for item in errors):
        raise ValueError("the extra member `errors` of a refusal must be a list of objects, as in every problem document")
    members = {name: dump(value) for name, value in extra.items()}
    if sum(len(name.encode()) + len(text) for name, text in members.items()) > _MOST_EXTRA_BYTES:
        raise ValueError(f"the extra members of a refusal must not take more than {_MOST_EXTRA_BYTES} bytes")
    return members
