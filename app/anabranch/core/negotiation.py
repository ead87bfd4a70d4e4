"""Judges what a client accepts: media types (`Accept`) and content codings (`Accept-Encoding`). Pure.

Lenient with clients, as most servers are: members of a field that are malformed are ignored, and a field without a valid one counts as absent.

**Source:** RFC 9110 sections 12.4.2 (quality values), 12.5.1 (`Accept`) and 12.5.3 (`Accept-Encoding`).
"""

import re
from collections.abc import Callable, Iterator, Sequence
from math import isfinite
from typing import Final, Generic, NamedTuple, TypeVar

T = TypeVar("T")

_MOST_BYTES: Final = 1024
"""Length up to which a field is read: at most 0.8 ms of work. Browsers send about 150 bytes."""
_MOST_REMEMBERED: Final = 128
_MOST_REMEMBERED_BYTES: Final = 256

_MEMBER: Final = re.compile(r'(?:[^,"]|"(?:\\.|[^"\\])*"?)+')
_PARAMETER: Final = re.compile(r'(?:[^;"]|"(?:\\.|[^"\\])*"?)+')
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")
_ALIASES: Final = {"x-gzip": "gzip"}


class MediaType(NamedTuple):
    """A media type or a range of them, in lower case. `subtype`: may be `*`, and in a range `*+json`. `parameters`: without `q`."""

    type: str
    subtype: str
    parameters: frozenset[tuple[str, str]] = frozenset()

    @classmethod
    def parse(cls, text: str) -> "MediaType":
        """The type in a `Content-Type` field. Raises ValueError."""
        found = list(_members(text, unreadable=1.0))
        if len(found) != 1 or "*" in found[0].value:
            raise ValueError("not one media type")
        return _media_type(found[0])


class Remembered(Generic[T]):
    """Judges fields and remembers its judgements, because clients send the same few. Bounded.

    `judge`: of the text of a field. `otherwise`: for a field that is too long to be read. `known`: the judgements so far; for a caller on the hot
    path.
    """

    __slots__ = ("_judge", "_otherwise", "known")

    def __init__(self, judge: Callable[[str], T], *, otherwise: T) -> None:
        self._judge = judge
        self._otherwise = otherwise
        self.known: dict[bytes, T] = {}

    def __call__(self, field: bytes) -> T:
        """One look-up in a dict for a field that came before."""
        found = self.known.get(field)
        return self._new(field) if found is None else found

    def _new(self, field: bytes) -> T:
        if len(field) > _MOST_BYTES:
            return self._otherwise
        found = self._judge(field.decode("latin-1"))
        if len(field) <= _MOST_REMEMBERED_BYTES:
            if len(self.known) >= _MOST_REMEMBERED:
                self.known.clear()
            self.known[field] = found
        return found


class _Member(NamedTuple):
    value: str
    parameters: frozenset[tuple[str, str]]
    quality: float


def accepts(field: str, media_type: MediaType) -> bool:
    """Whether an `Accept` field allows `media_type`: of the ranges that match it, the most specific one decides.

    More lenient than the RFC in two points. A range with parameters that `media_type` does not have (`application/json;version=2`) still allows it,
    because clients send a charset or a version to servers that know none. `application/*+json` also allows `application/json`.
    """
    best = (-1, 0.0)
    is_empty = True
    for member in _members(field, unreadable=1.0):
        try:
            offered = _media_type(member)
        except ValueError:
            continue
        is_empty = False
        specificity = _specificity(offered, media_type, is_refused=not member.quality)
        if specificity is not None:
            best = max(best, (specificity, member.quality))
    return is_empty or best[1] > 0


def choose_coding(field: str, available: Sequence[str]) -> tuple[str | None, bool]:
    """The content coding of a response under an `Accept-Encoding` field, and whether the response may also have none.

    `available`: what the server can do, the preferred one first: it is chosen among those that the client likes equally. None: no coding. A client
    that accepts nothing at all gets no coding, as RFC 9110 section 12.5.3 recommends.
    """
    qualities: dict[str, float] = {}
    # An unreadable preference is no consent: a client that cannot decode the body gets nothing at all.
    for member in _members(field, unreadable=0.0):
        name = _ALIASES.get(member.value, member.value)
        qualities[name] = max(member.quality, qualities.get(name, 0.0))
    rest = qualities.get("*", 0.0)
    identity = qualities.get("identity")
    best, quality = None, 0.0
    for name in available:
        if (found := qualities.get(name, rest)) > quality:
            best, quality = name, found
    if identity is not None and identity > quality:
        return None, True
    may_be_plain = bool(identity) if identity is not None else "*" not in qualities or rest > 0
    return best, may_be_plain


def _members(field: str, *, unreadable: float) -> Iterator[_Member]:
    """The members of a field, in lower case. `unreadable`: quality of a member whose `q` is no number."""
    for text in _MEMBER.findall(field.lower()) if '"' in field else field.lower().split(","):
        value, *parameters = (part.strip() for part in (_PARAMETER.findall(text) if '"' in text else text.split(";")))
        quality = 1.0
        kept = []
        for parameter in parameters:
            name, _, given = parameter.partition("=")
            name, given = name.strip(), given.strip().strip('"')
            if name == "q":
                quality = _quality(given, unreadable)
                break
            if name:
                kept.append((name, given))
        if value:
            yield _Member(value, frozenset(kept), quality)


def _quality(text: str, unreadable: float) -> float:
    """Between 0 and 1."""
    try:
        quality = float(text)
    except ValueError:
        return unreadable
    return min(1.0, max(0.0, quality)) if isfinite(quality) else unreadable


def _media_type(member: _Member) -> MediaType:
    # Java's HttpURLConnection sends `*` for `*/*`.
    kind, slash, subtype = ("*", "/", "*") if member.value == "*" else member.value.partition("/")
    if not slash or not _NAME.fullmatch(kind) or not _NAME.fullmatch(subtype) or (kind == "*" and subtype != "*"):
        raise ValueError("not a media type")
    return MediaType(kind, subtype, member.parameters)


def _specificity(offered: MediaType, media_type: MediaType, *, is_refused: bool) -> int | None:
    """How closely a range describes a media type; None when it does not."""
    has_parameters = bool(offered.parameters)
    is_exact = has_parameters and offered.parameters <= media_type.parameters | {("charset", "utf-8")}
    if has_parameters and not is_exact and is_refused:
        return None  # refuses another variant
    if offered.type == "*":
        return 0
    if offered.type != media_type.type:
        return None
    if offered.subtype == "*":
        return 1
    if offered.subtype == media_type.subtype:
        return 4 if is_exact else 3
    prefix, plus, suffix = offered.subtype.rpartition("+")
    if prefix == "*" and plus and (media_type.subtype == suffix or media_type.subtype.endswith(f"+{suffix}")):
        return 2
    return None
