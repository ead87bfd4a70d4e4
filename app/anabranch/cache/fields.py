"""Reads the header fields that caching depends on. Pure. What cannot be read counts as what keeps the least.

**Source:** RFC 9111 sections 4.2 and 5; RFC 9110 section 5.6.7 (dates); RFC 9213 (targeted fields); RFC 9651 section 4.2 (structured fields).
"""

import re
from calendar import timegm
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

Pairs = Sequence[tuple[bytes, bytes]]
Directives = dict[bytes, list[bytes | None]]
"""The values of each directive, by name in lower case, in order; None for one without a value."""

MOST_S: Final = 2**31
"""More seconds than this mean "for ever" (RFC 9111 section 1.2.2)."""
TARGETED: Final = b"cdn-cache-control"
"""The targeted field for caches in front of services (RFC 9213 section 3)."""


def lines(pairs: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """The values of all fields of this name."""
    return [value for key, value in pairs if key == name]


def split(value: bytes) -> list[bytes]:
    """The members of a comma-separated list, stripped; commas in quoted strings do not count. Empty members are left out (RFC 9110 section 5.6.1)."""
    if b'"' not in value:
        return [member for part in value.split(b",") if (member := part.strip())]
    members, start, is_quoted, at = [], 0, False, 0
    while at < len(value):
        char = value[at]
        if is_quoted and char == 0x5C:
            at += 1
        elif char == 0x22:
            is_quoted = not is_quoted
        elif char == 0x2C and not is_quoted:
            members.append(value[start:at].strip())
            start = at + 1
        at += 1
    members.append(value[start:].strip())
    return [member for member in members if member]


def directives(values: Iterable[bytes]) -> Directives:
    """The directives of all Cache-Control fields of a message. White space around `=` makes a value invalid, and it stays in it then."""
    found: Directives = {}
    for member in split(b",".join(values)):
        name, equals, value = member.partition(b"=")
        found.setdefault(name.strip().lower(), []).append(_value(value, is_exact=name == name.rstrip()) if equals else None)
    return found


def _value(value: bytes, *, is_exact: bool) -> bytes:
    if not is_exact:
        return b" " + value
    if len(value) > 1 and value[:1] == value[-1:] == b'"':
        return re.sub(rb"\\(.)", rb"\1", value[1:-1])
    return value


def seconds(found: Directives, name: bytes) -> float | None:
    """The value of a directive in seconds; None without it. Of several the smallest; one that is not a number is 0 (RFC 9111 section 4.2.1)."""
    values = found.get(name)
    return None if values is None else min(_seconds(value) for value in values)


def _seconds(value: bytes | None) -> float:
    if value is None or not value.isdigit():
        return 0.0
    return float(min(int(value), MOST_S)) if len(value) < 20 else float(MOST_S)


def names(found: Directives, name: bytes) -> frozenset[bytes]:
    """The field names that a directive is about, in lower case; empty when it is about all of the response, or missing."""
    values = found.get(name) or ()
    if None in values:
        return frozenset()
    return frozenset(member.lower() for value in values if value is not None for member in split(value))


def is_about_all(found: Directives, name: bytes) -> bool:
    """Whether a directive is there and names no fields."""
    return name in found and not names(found, name)


def age(pairs: Pairs) -> float:
    """The value of Age in seconds. Of a list the first member counts; an invalid value is ignored (RFC 9111 section 5.1)."""
    members = split(b",".join(lines(pairs, b"age")))
    return _seconds(members[0]) if members else 0.0


_MONTHS: Final = {name: number for number, name in enumerate(b"jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)}
_TIME: Final = rb"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
_DATES: Final = (
    re.compile(rb"(?:mon|tue|wed|thu|fri|sat|sun), (?P<day>\d\d) (?P<month>[a-z]{3}) (?P<year>\d{4}) " + _TIME + rb" gmt"),
    re.compile(rb"(?:mon|tues|wednes|thurs|fri|satur|sun)day, (?P<day>\d\d)-(?P<month>[a-z]{3})-(?P<year>\d\d) " + _TIME + rb" gmt"),
    re.compile(rb"(?:mon|tue|wed|thu|fri|sat|sun) (?P<month>[a-z]{3}) (?P<day>[ \d]\d) " + _TIME + rb" (?P<year>\d{4})"),
)


def date(value: bytes, now: float) -> float | None:
    """A date in seconds since the epoch, of one of the three forms of RFC 9110 section 5.6.7, in any case; None for anything else. `now`: for years of two
    digits."""
    text = value.strip().lower()
    match = next((found for form in _DATES if (found := form.fullmatch(text)) is not None), None)
    if match is None or (month := _MONTHS.get(match["month"])) is None:
        return None
    year = int(match["year"])
    if len(match["year"]) == 2:
        # A date that seems more than 50 years ahead is in the past (RFC 9110 section 5.6.7).
        this_year = datetime.fromtimestamp(now).year  # noqa: DTZ006 - a year
        year += this_year // 100 * 100
        year -= 100 if year > this_year + 50 else 0
    try:
        # A leap second is the second before it.
        moment = datetime(year, month, int(match["day"]), int(match["hour"]), int(match["minute"]), min(int(match["second"]), 59))  # noqa: DTZ001
    except ValueError:
        return None
    return float(timegm(moment.timetuple()))


def first_date(pairs: Pairs, name: bytes, now: float) -> float | None:
    """The date in a field; None without it and when it is invalid."""
    values = lines(pairs, name)
    return date(values[0], now) if values else None


def targeted(values: Sequence[bytes]) -> Directives | None:
    """The directives of a targeted field; None where it is missing, empty or invalid, and is ignored then (RFC 9213 section 2.1).

    It is a dictionary of structured fields: names are in lower case, a later member replaces an earlier one, durations are integers.
    """
    text = b",".join(values).strip(b" ")
    if not text:
        return None
    try:
        return _Dictionary(text).read()
    except (ValueError, IndexError):
        return None


_KEY: Final = re.compile(rb"[a-z*][a-z0-9_.*-]*")
_NUMBER: Final = re.compile(rb"-?(?:\d{1,12}\.\d{1,3}(?!\d)|\d{1,15}(?![\d.]))")
_STRING: Final = re.compile(rb'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_TOKEN: Final = re.compile(rb"[A-Za-z*][!#$%&'*+.^_`|~0-9A-Za-z:/-]*")
_OTHER: Final = re.compile(rb"\?[01]|:[A-Za-z0-9+/=]*:|@-?\d{1,15}|%\"(?:[\x20\x21\x23-\x24\x26-\x7e]|%[0-9a-f]{2})*\"")
_DURATIONS: Final = frozenset({b"max-age", b"s-maxage", b"stale-while-revalidate", b"stale-if-error"})


class _Dictionary:
    """Parses a dictionary (RFC 9651 section 4.2.2). Everything raises ValueError or IndexError."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._at = 0

    def read(self) -> Directives:
        found: Directives = {}
        while True:
            name = self._take(_KEY)
            value: bytes | None = None
            if self._text[self._at : self._at + 1] == b"=":
                self._at += 1
                value = self._member()
            self._parameters()
            if name in _DURATIONS and (value is None or not value.isdigit()):
                raise ValueError("not a duration")
            if value == b"?0":
                found.pop(name, None)
            else:
                found[name] = [None if value == b"?1" else value]
            self._skip(b" \t")
            if self._at == len(self._text):
                return found
            self._expect(b",")
            self._skip(b" \t")

    def _member(self) -> bytes:
        if self._text[self._at : self._at + 1] != b"(":
            return self._item()
        self._at += 1
        items: list[bytes] = []
        while True:
            self._skip(b" ")
            if self._text[self._at] == 0x29:
                self._at += 1
                return b",".join(items)
            items.append(self._item())
            self._parameters()
            if self._text[self._at] not in b" )":
                raise ValueError("no end of an item")

    def _item(self) -> bytes:
        for form in (_NUMBER, _TOKEN, _OTHER):
            if (match := form.match(self._text, self._at)) is not None:
                self._at = match.end()
                return match[0]
        # Quotes stay, so that a string is no integer; those of field names do not matter.
        match = _STRING.match(self._text, self._at)
        if match is None:
            raise ValueError("no item")
        self._at = match.end()
        return match[0] if match[1].isdigit() else match[1]

    def _parameters(self) -> None:
        while self._text[self._at : self._at + 1] == b";":
            self._at += 1
            self._skip(b" ")
            self._take(_KEY)
            if self._text[self._at : self._at + 1] == b"=":
                self._at += 1
                self._item()

    def _take(self, form: "re.Pattern[bytes]") -> bytes:
        match = form.match(self._text, self._at)
        if match is None:
            raise ValueError("not a key")
        self._at = match.end()
        return match[0]

    def _expect(self, char: bytes) -> None:
        if self._text[self._at : self._at + 1] != char:
            raise ValueError("unexpected character")
        self._at += 1

    def _skip(self, chars: bytes) -> None:
        while self._text[self._at : self._at + 1] and self._text[self._at] in chars:
            self._at += 1


def varies_by(pairs: Pairs) -> tuple[bytes, ...] | None:
    """The names in Vary, in lower case and order; None with `*`, which no request matches (RFC 9111 section 4.1)."""
    members = {member.lower() for value in lines(pairs, b"vary") for member in split(value)}
    return None if b"*" in members else tuple(sorted(members))


def normalised(pairs: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """The value of a request field for comparison: fields combined, and without white space around commas; None without the field
    (RFC 9111 section 4.1). Quoted strings stay as they are."""
    values = lines(pairs, name)
    if not values:
        return None
    return b",".join(split(b",".join(values)))
