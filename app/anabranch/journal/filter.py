"""Which records to read, and how people ask for them: on the command line and over HTTP by the same words."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from anabranch.config.problems import did_you_mean
from anabranch.config.units import parse_duration
from anabranch.journal.record import Head
from anabranch.journal.segment import Segment

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which records to read. `since` is inclusive, `until` exclusive. Empty sets and None match everything.

    `statuses`: exact ones such as 404, and classes: 4 matches 400 to 499. `slower_than_ms`: took at least this long. `requests`: values of
    X-Request-Id. `traces`: W3C trace ids. `paths`: of requests, as the client encoded them; one that ends in `*` matches what begins so.
    """

    endpoints: frozenset[str] = frozenset()
    since: datetime | None = None
    until: datetime | None = None
    statuses: frozenset[int] = frozenset()
    is_incomplete: bool = False
    slower_than_ms: float | None = None
    requests: frozenset[str] = frozenset()
    traces: frozenset[str] = frozenset()
    paths: tuple[str, ...] = ()

    def matches(self, head: Head) -> bool:
        return not (
            (self.since is not None and head.time < self.since)
            or (self.until is not None and head.time >= self.until)
            or (self.endpoints and head.endpoint not in self.endpoints)
            or (self.statuses and head.status not in self.statuses and head.status // 100 not in self.statuses)
            or (self.is_incomplete and head.complete)
            or (self.slower_than_ms is not None and head.elapsed_ms < self.slower_than_ms)
            or (self.requests and head.request.id not in self.requests)
            or (self.traces and head.request.trace not in self.traces)
            or (self.paths and not any(_is_on(head.request.path, path) for path in self.paths))
        )

    def may_be_in(self, segment: Segment) -> bool:
        """Whether the segment may contain records between `since` and `until`. An open segment may contain any."""
        summary = segment.summary
        if summary is None:
            return True
        return not ((self.since is not None and summary.last < self.since) or (self.until is not None and summary.first >= self.until))


EVERYTHING: Final = Filter()


def _is_on(path: str, wanted: str) -> bool:
    return path.startswith(wanted[:-1]) if wanted.endswith("*") else path == wanted


class FilterError(ValueError):
    """`name`: of what was asked wrongly. The message is a sentence without it."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


def read_filter(asked: Mapping[str, Sequence[str]], *, now: datetime) -> Filter:
    """The filter that texts ask for: by name (see `ASKED`) the texts of each. `now`: what durations count back from. Raises FilterError."""
    found: dict[str, Any] = {}
    for name, texts in asked.items():
        field = _FIELDS.get(name)
        if field is None:
            raise FilterError(name, did_you_mean(name, ASKED) or f"there are only {', '.join(ASKED)}")
        if len(texts) > 1 and not field.is_repeatable:
            raise FilterError(name, "give it once")
        try:
            values = [field.read(text, now) for text in texts]
        except (ValueError, OverflowError) as error:
            raise FilterError(name, str(error)) from None
        if values:
            found[field.name] = field.collect(values)
    return Filter(**found)


@dataclass(frozen=True, slots=True)
class _Field:
    """How one field of a filter is asked for. `name`: of the field."""

    name: str
    read: Callable[[str, datetime], Any]
    collect: Callable[[list[Any]], Any]
    is_repeatable: bool = False


def _status(text: str, _now: datetime) -> int:
    digits = text.lower().removesuffix("xx")
    if not (digits.isascii() and digits.isdecimal() and (len(text), len(digits)) in ((3, 3), (3, 1))):
        raise ValueError(f"{text!r} is neither a status such as 404 nor a class such as 5xx")
    return int(digits)


def _moment(text: str, now: datetime) -> datetime:
    """A duration before now, or a time; without a zone it is UTC."""
    try:
        return now - timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError):
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither a duration such as 1h nor a time such as 2026-11-22T16:00Z") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _yes(text: str, _now: datetime) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text == "true"


def _as_it_is(text: str, _now: datetime) -> str:
    if not text:
        raise ValueError("it must not be empty")
    return text


def _milliseconds(text: str, _now: datetime) -> float:
    return parse_duration(text) * 1000


def _path(text: str, _now: datetime) -> str:
    if not text.startswith("/"):
        raise ValueError(f"{text!r} must start with /")
    return text


def _only(values: list[T]) -> T:
    return values[0]


_FIELDS: Final[Mapping[str, _Field]] = {
    "endpoint": _Field("endpoints", _as_it_is, frozenset, is_repeatable=True),
    "since": _Field("since", _moment, _only),
    "until": _Field("until", _moment, _only),
    "status": _Field("statuses", _status, frozenset, is_repeatable=True),
    "incomplete": _Field("is_incomplete", _yes, _only),
    "slow": _Field("slower_than_ms", _milliseconds, _only),
    "request": _Field("requests", _as_it_is, frozenset, is_repeatable=True),
    "trace": _Field("traces", lambda text, now: _as_it_is(text, now).lower(), frozenset, is_repeatable=True),
    "path": _Field("paths", _path, tuple, is_repeatable=True),
}
ASKED: Final = tuple(_FIELDS)
"""The names that a filter can be asked for by."""
