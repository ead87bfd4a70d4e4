"""Counts what limits and rules admit and reject, and logs some of it: a flood of requests must not become a flood of lines."""

import logging
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Final

from anabranch.core.metric import Sample, metric

logger = logging.getLogger("anabranch.guard")

ADMITTED: Final = metric("counter", "rate_limit_admitted", "limit", "Requests that a rate limit admitted.")
REJECTED: Final = metric("counter", "rate_limit_rejected", "limit", "Requests that a rate limit rejected with 429.")
UNCHECKED: Final = metric(
    "counter", "rate_limit_unchecked", "limit", "Requests that a rate limit could not check, because the shared store was away."
)
REFUSED: Final = metric(
    "counter",
    "rule_refused",
    "rule",
    "Requests that a rule of the document refused, by its number from 0, or `address` for `allow_from` and `deny_from`.",
)

_PAUSE_S: Final = 60.0


class Tally:
    """`clock`: monotonic."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._admitted: dict[str, int] = {}
        self._rejected: dict[str, int] = {}
        self._unchecked: dict[str, int] = {}
        self._refused: dict[str, int] = {}
        self._next_line: dict[tuple[str, str], float] = {}

    def admit(self, limit: str) -> None:
        self._admitted[limit] = self._admitted.get(limit, 0) + 1

    def reject(self, limit: str) -> None:
        self._rejected[limit] = self._rejected.get(limit, 0) + 1
        if self._is_time("limit", limit):
            logger.info("the limit `%s` rejects requests: %d so far", limit, self._rejected[limit])

    def skip(self, limit: str) -> None:
        self._unchecked[limit] = self._unchecked.get(limit, 0) + 1

    def refuse(self, rule: str) -> None:
        self._refused[rule] = self._refused.get(rule, 0) + 1
        if self._is_time("rule", rule):
            logger.info("the rule `%s` refuses requests: %d so far", rule, self._refused[rule])

    def fail(self, rule: str, reason: str) -> None:
        """A rule could not be evaluated."""
        if self._is_time("fault", rule):
            logger.warning("the rule `%s` cannot be evaluated for some requests, which are refused: %s", rule, reason)

    def undecided(self, endpoint: str, reason: str) -> None:
        """An `allow` could not be evaluated."""
        if self._is_time("allow", endpoint):
            logger.warning("`allow` of endpoint %s cannot be evaluated for some requests, which are refused: %s", endpoint, reason)

    def _is_time(self, kind: str, name: str) -> bool:
        """Whether a line of this kind may be logged: one a minute."""
        now = self._clock()
        if now < self._next_line.get((kind, name), now):
            return False
        self._next_line[kind, name] = now + _PAUSE_S
        return True

    def samples(self) -> Iterator[Sample]:
        """See `core.metric.Sampled`."""
        for each, counts in (
            (ADMITTED, self._admitted),
            (REJECTED, self._rejected),
            (UNCHECKED, self._unchecked),
            (REFUSED, self._refused),
        ):
            for name, count in counts.items():
                yield Sample(each, (name,), count)
