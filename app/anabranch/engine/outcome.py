"""The outcome of a step and the result of a request."""

from collections.abc import Mapping, Sequence
from time import time
from typing import Final

from anabranch.core.backoff import retry_after_s
from anabranch.core.cached import CacheUse, together
from anabranch.core.exchange import Answer, Request
from anabranch.errors import NothingAnswered, SkippedError, StepError, UpstreamStatus

_DEMANDED: Final = {401: b"www-authenticate", 405: b"allow", 416: b"content-range"}
"""The header field that a status comes with. **Source:** RFC 9110 sections 15.5.2, 15.5.6 and 15.5.17."""
_MOST_DEMANDED_BYTES: Final = 1024
"""Of such fields together: a response's head must stay small."""


def status_failure(answer: Answer, *, has_own_credentials: bool = False) -> UpstreamStatus:
    """The failure for an answer that is not 2xx. Its `Retry-After`, and the field that its status comes with, are passed on to the client."""
    retry_after = answer.header(b"retry-after")
    demanded = _DEMANDED.get(answer.status)
    fields = () if demanded is None else tuple((name, value) for name, value in answer.headers if name == demanded)
    return UpstreamStatus(
        answer.status,
        retry_after_s=None if retry_after is None else retry_after_s(retry_after, unix_now=time()),
        fields=fields if sum(len(value) for _, value in fields) <= _MOST_DEMANDED_BYTES else (),
        has_own_credentials=has_own_credentials,
        body=answer.body,
        content_type=answer.header(b"content-type"),
    )


_NO_CALLS: "Final[list[Outcome]]" = []
"""Shared by all outcomes without runs, which are nearly all."""


class Outcome:
    """The outcome of one step: a value or a failure, with timings.

    `raw`: the value as JSON text after shaping; None when the step failed, and then `failure` is set.
    `started_s`: seconds from the start of the request to the start of the step. `elapsed_s`: duration of the step. `queue_s`: part of it
    spent in a queue. `run_s`: for a compute, how long a worker had the job; None for a call, or when the job never started.
    `attempts`: exchanges started; 0 when the step was skipped or rejected. `status`: the upstream's status; None without an answer.
    `stale_age_s`: age of the stored answer used in place of a failed call; None when the answer is fresh. `cache_use`: what the cache had to do with the answer;
    None: nothing.
    `item_count`, `item_failures`, `dropped_items`: of a step with `each`, how many elements it ran for, the failures of those that failed, and how many
    there were beyond `max_items`. `calls`: its runs.
    `left_out`: why it did not run although nothing failed, as explain says it (`left_out`, `not_needed`), and then there is neither value nor
    failure; else "". `headers`: of the answer, names in lower case; None without one. `is_excused`: its failure does not matter, because another step has answered in its place. `stand_in`: of the step whose
    value is its own; there may be both then, a value and a failure. `is_large`: its body was too large for the event loop. `notes`: what the policies did, for explain. `request`, `answer`: as sent and received, kept only when the endpoint keeps records.
    """

    __slots__ = (
        "answer", "attempts", "cache_use", "calls", "dropped_items", "elapsed_s", "failure", "headers", "is_excused", "is_large", "item_count", "item_failures", "left_out", "notes", "queue_s", "raw", "request", "run_s", "stale_age_s", "stand_in", "started_s", "status", "step", "upstream",
    )  # fmt: skip

    def __init__(self, step: str, upstream: str) -> None:
        self.step = step
        self.upstream = upstream
        self.raw: bytes | None = None
        self.failure: StepError | None = None
        self.started_s = 0.0
        self.elapsed_s = 0.0
        self.queue_s = 0.0
        self.run_s: float | None = None
        self.stale_age_s: float | None = None
        self.cache_use: CacheUse | None = None
        self.attempts = 0
        self.status: int | None = None
        self.notes: list[str] | None = None
        self.is_large = False
        self.is_excused = False
        self.stand_in: Outcome | None = None
        self.left_out = ""
        self.headers: list[tuple[bytes, bytes]] | None = None
        self.request: Request | None = None
        self.answer: Answer | None = None
        self.item_count = 0
        self.item_failures: Sequence[StepError] = ()
        self.dropped_items = 0
        self.calls: list[Outcome] = _NO_CALLS

    @property
    def answered(self) -> "Outcome":
        """The outcome of the step whose value is its own: itself, unless another one stands in."""
        return self if self.stand_in is None else self.stand_in.answered

    @property
    def first_failure(self) -> StepError | None:
        """The step's own failure, or that of the first element that failed: one that has no reason of its own only if there is no other. None when nothing failed."""
        if self.failure is not None or not self.item_failures:
            return self.failure
        return next((failure for failure in self.item_failures if not isinstance(failure, SkippedError)), self.item_failures[0])

    @property
    def shortfall(self) -> str:
        """Why its value is not whole, for people; "" when it is."""
        words = [f"{len(self.item_failures)} of {self.item_count} failed"] if self.item_failures else []
        words += [f"{self.dropped_items} left out"] if self.dropped_items else []
        return ", ".join(words)

    @property
    def is_in_vain(self) -> bool:
        """Whether it has a value in which there is nothing: every element failed."""
        return bool(self.item_failures) and len(self.item_failures) == self.item_count

    def add(self, run: "Outcome") -> None:
        """Add what one run for some elements has learned."""
        if self.calls is _NO_CALLS:
            self.calls = []
        self.calls.append(run)
        self.attempts += run.attempts
        self.queue_s += run.queue_s
        self.is_large = self.is_large or run.is_large
        if run.run_s is not None:
            self.run_s = (self.run_s or 0.0) + run.run_s
        if run.stale_age_s is not None:
            self.stale_age_s = max(self.stale_age_s or 0.0, run.stale_age_s)
        if run.cache_use is not None:
            self.cache_use = together(self.cache_use, run.cache_use)
        if run.notes:
            if self.notes is None:
                self.notes = []
            self.notes += run.notes


def common_failure(failures: Sequence[StepError], reasons: Sequence[StepError], detail: str) -> StepError:
    """The failure of what several failed steps were for. `reasons`: all that is known. `detail`: in a sentence what failed.

    Where every service gave the same 4xx, that is the answer: the client has asked for something that it cannot have.
    """
    first = failures[0] if failures else None
    if isinstance(first, UpstreamStatus) and first.status < 500 and all(_has_status(failure, first.status) for failure in failures):
        return first
    return NothingAnswered(detail, is_timeout=bool(reasons) and all(failure.is_timeout for failure in reasons))


def _has_status(failure: StepError, status: int) -> bool:
    return isinstance(failure, UpstreamStatus) and failure.status == status


_NOTHING: Final[Mapping[str, str]] = {}


class Result:
    """The result of one request.

    `outcomes`: in document order, without the steps that never finished because a required step failed. `body`: the merged response; None
    when the request ended with `failure`, and then `status` is that of the failure. `is_complete`: no step failed or has a stale answer.
    `left_out`: why steps did not run although nothing failed, by name (`Outcome.left_out`); they are not in `outcomes`.
    """

    __slots__ = ("body", "failure", "is_complete", "left_out", "outcomes", "status")

    def __init__(
        self,
        *,
        outcomes: list[Outcome],
        status: int,
        body: bytes | None,
        is_complete: bool,
        failure: StepError | None = None,
        left_out: Mapping[str, str] = _NOTHING,
    ) -> None:
        self.outcomes = outcomes
        self.status = status
        self.body = body
        self.is_complete = is_complete
        self.failure = failure
        self.left_out = left_out

    @property
    def is_absent(self) -> bool:
        """Whether it is incomplete only because services said that what was asked for is not there. No service is at fault then."""
        failures = [outcome.failure for outcome in self.outcomes if outcome.failure is not None and not outcome.is_excused]
        failures += [failure for outcome in self.outcomes for failure in outcome.item_failures]
        is_stale = any(outcome.stale_age_s is not None for outcome in self.outcomes)
        return bool(failures) and not is_stale and all(failure.is_absent for failure in failures)
