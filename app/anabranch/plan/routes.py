"""Parses the paths of endpoints, and finds those that match the same requests."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

RESERVED: Final = ("livez", "readyz", "metrics", "docs", "redoc", "openapi.json", "problems")
"""First segments of the paths that the gateway itself serves (DESIGN section 10)."""

_REST: Final = "..."
_PARAMETER: Final = re.compile(r"\{([^{}]*)\}")
_NAME: Final = re.compile(r"[^\W\d][\w\[\]-]*(?:\.[\w\[\]-]+)*")
_KEPT: Final = re.compile(r"%(?:(2[13456789ABCF]|3[ABDF]|40|5[BD])|(?![0-9A-F]{2}))", re.IGNORECASE)
"""The escapes of reserved characters and of `%` (RFC 3986 section 2.2), and a `%` that begins no escape."""


class PathError(ValueError):
    """A path is not valid. The message is for the operator."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of an endpoint's path.

    `literals`: the texts before, between and after the parameters, one more than `names`: percent-decoded, but beside a parameter the escapes
    of reserved characters are kept (`keep_reserved`). `is_rest`: the parameter takes all remaining segments.
    """

    literals: tuple[str, ...]
    names: tuple[str, ...] = ()
    is_rest: bool = False
    length: int = field(init=False, compare=False)
    """Characters of the literals: the longest pattern takes precedence."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", sum(map(len, self.literals)))

    @property
    def is_static(self) -> bool:
        return not self.names

    @property
    def is_mixed(self) -> bool:
        """Whether there is text around the parameters."""
        return bool(self.names) and self.length > 0

    @property
    def shape(self) -> tuple[tuple[str, ...], bool]:
        """The segment without the names of its parameters."""
        return self.literals, self.is_rest

    def split(self, text: str) -> tuple[str, ...] | None:
        """The values of the parameters in `text`, a segment after `keep_reserved`; None when it does not match.

        A value ends where the text behind it is found first, and the last one takes what is left. No value is empty or a dot segment.
        """
        first, *between, last = self.literals
        end = len(text) - len(last)
        at = len(first)
        if at >= end or not text.startswith(first) or not text.endswith(last):
            return None
        values = []
        for literal in between:
            found = text.find(literal, at + 1, end)
            if found < 0:
                return None
            values.append(text[at:found])
            at = found + len(literal)
        values = [unquote(value) for value in (*values, text[at:end])]
        return None if any(value in ("", ".", "..") for value in values) else tuple(values)

    def overlaps(self, other: "Segment") -> bool:
        """Whether some segment of a request matches both."""
        if self.is_static:
            text = self.literals[0]
            return text == other.literals[0] if other.is_static else other.split(text) is not None
        if other.is_static:
            return other.overlaps(self)
        ours, theirs = self.literals, other.literals
        return (ours[0].startswith(theirs[0]) or theirs[0].startswith(ours[0])) and (
            ours[-1].endswith(theirs[-1]) or theirs[-1].endswith(ours[-1])
        )


Segments = tuple[Segment, ...]


def keep_reserved(text: str) -> str:
    """A text in which escapes of reserved characters survive one decoding, and are decoded by a second one.

    An encoded `:` is part of a value, and never the `:` of `{id}:cancel`; an encoded letter is that letter (RFC 3986 sections 2.2 and 2.3).
    """
    return _KEPT.sub(lambda found: f"%25{found[1].upper()}" if found[1] else "%2525", text) if "%" in text else text


def split_path(path: str) -> Segments:
    """The segments of an endpoint's path, which is not checked."""
    return tuple(map(_segment, path[1:].split("/")))


def _segment(text: str) -> Segment:
    parts = _PARAMETER.split(text)
    if len(parts) == 1:
        return Segment((unquote(text),))
    is_rest = parts[1].endswith(_REST)
    names = tuple(name.removesuffix(_REST) for name in parts[1::2])
    return Segment(tuple(unquote(keep_reserved(part)) for part in parts[::2]), names, is_rest)


def parse_path(path: str) -> Segments:
    """The segments of an endpoint's path. Raises PathError."""
    if not path.startswith("/"):
        raise PathError("a path must start with /")
    if any(char in path for char in "?#") or any(ord(char) <= 0x20 or ord(char) == 0x7F for char in path):
        raise PathError("a path must not have a query, a fragment, white space or control characters")
    texts = path[1:].split("/")
    if "" in texts[:-1]:
        raise PathError("a path must not have empty segments")
    segments = split_path(path)
    if segments[0].is_static and segments[0].literals[0] in RESERVED:
        raise PathError(f"/{segments[0].literals[0]} is reserved for the gateway itself")
    for index, (text, segment) in enumerate(zip(texts, segments, strict=True)):
        _check(text, segment, is_last=index == len(texts) - 1)
    names = parameter_names(segments)
    for name in names:
        if names.count(name) > 1:
            raise PathError(f"the path has the parameter {name} twice")
    return segments


def _check(text: str, segment: Segment, *, is_last: bool) -> None:
    parts = _PARAMETER.split(text)
    if any("{" in part or "}" in part for part in parts[::2]) or not all(map(_NAME.fullmatch, segment.names)):
        raise PathError(
            f"{text} is not a valid segment: a parameter is a name in braces, such as {{id}}; a name begins with a letter or `_`, and may have "
            "digits, `-`, `[`, `]`, and single dots inside"
        )
    if "" in segment.literals[1:-1]:
        raise PathError(f"{text} has two parameters with nothing between them, so that nothing tells where the first one ends")
    if any(name.endswith(_REST) for name in parts[1::2]) and not (segment.is_rest and is_last and len(parts) == 3 and not segment.length):
        raise PathError(
            f"{text}: a parameter for all remaining segments must be the whole last segment of the path, such as /files/{{rest...}}"
        )


def parameter_names(segments: Segments) -> list[str]:
    return [name for segment in segments for name in segment.names]


def route_key(method: str, segments: Segments) -> tuple[str, tuple[object, ...]]:
    """The identity of a route: its method, its literal texts, and the positions of its parameters, but not their names."""
    return method, tuple(segment.shape for segment in segments)


def ambiguous(routes: Sequence[Segments]) -> Iterator[tuple[int, int]]:
    """The pairs of routes, by index, that match the same request with texts of equal length, so that neither takes precedence.

    Routes of equal shape are no such pair: `route_key`.
    """
    rivals: dict[tuple[tuple[object, ...], int], list[int]] = {}
    for index, route in enumerate(routes):
        for depth, segment in enumerate(route):
            if segment.is_mixed:
                rivals.setdefault((tuple(one.shape for one in route[:depth]), segment.length), []).append(index)
    for (above, _), group in rivals.items():
        depth = len(above)
        for place, index in enumerate(group):
            own = routes[index]
            for other in group[:place]:
                theirs = routes[other]
                if own[depth].shape != theirs[depth].shape and _overlap(own[depth:], theirs[depth:]):
                    yield other, index


def _overlap(left: Segments, right: Segments) -> bool:
    for own, other in zip(left, right, strict=False):
        if own.is_rest or other.is_rest:
            return True
        if not own.overlaps(other):
            return False
    return len(left) == len(right)


def operation_name(method: str, segments: Segments) -> str:
    """A name for an endpoint that does not set one: `get_flights_by_flight_id_briefing`."""
    words = [method.lower()]
    for segment in segments:
        for literal, name in zip(segment.literals, (*segment.names, ""), strict=True):
            words += [literal, f"by_{name}" if name else ""]
    cleaned = ("".join(char if char.isalnum() else "_" for char in word).strip("_") for word in words)
    return "_".join(word for word in cleaned if word)
