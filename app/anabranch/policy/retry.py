"""Retries failed calls: only those that are safe to repeat, only before the deadline, and only within the budget."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from anabranch.config.units import format_ratio
from anabranch.core.backoff import full_jitter, retry_after_s
from anabranch.core.budget import Budget
from anabranch.core.exchange import Answer
from anabranch.errors import ConnectError, ConnectionLost, RejectedError, UnexpectedAnswer, UpstreamError, UpstreamTimeout
from anabranch.plan.upstream import UpstreamPlan
from anabranch.policy.call import Call, Policy
from anabranch.policy.event import EventKind, Observer, PolicyEvent
from anabranch.policy.tools import Tools

_RETRY_AFTER_STATUSES: Final = frozenset((429, 503))
_ERRORS: Final[dict[str, type[UpstreamError]]] = {
    "connect": ConnectError,
    "timeout": UpstreamTimeout,
    "connection_lost": ConnectionLost,
}


class RetryLayer:
    """Makes at most `attempts` attempts of a call in total.

    Retries an idempotent call after the errors and statuses listed in `on` (`connect`, `timeout`, `connection_lost`, or a status). Retries
    any other call only after a listed error for which the transport knows that no byte of the request reached the service. Does not retry a
    good answer, whatever its status, except one that the document refuses (`counts_as_failure`), nor a
    rejection (breaker open, queue full): the inner layers have already tried other addresses.

    Waits with full jitter between attempts, or as long as the `Retry-After` of a 429 or 503 if that is longer. A failure is final if the
    wait would not end before the deadline, if the budget is used up, or if the next attempt is rejected before anything was sent; in the
    last case the call fails like the attempt before.

    Cancellation ends the wait or the attempt; nothing runs in the background.
    """

    __slots__ = (
        "_attempts",
        "_backoff_s",
        "_clock",
        "_errors",
        "_max_backoff_s",
        "_next",
        "_observer",
        "_random",
        "_statuses",
        "_upstream",
        "_wall_clock",
        "budget",
    )

    def __init__(
        self,
        next_: Policy,
        *,
        attempts: int,
        on: Sequence[str],
        backoff_s: float,
        max_backoff_s: float,
        budget: Budget,
        clock: Callable[[], float],
        random: Callable[[], float],
        upstream: str,
        observer: Observer | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._next = next_
        self._attempts = attempts
        self._errors: tuple[type[UpstreamError], ...] = (UnexpectedAnswer, *(_ERRORS[reason] for reason in on if reason in _ERRORS))
        self._statuses = frozenset(int(reason) for reason in on if reason not in _ERRORS)
        self._backoff_s = backoff_s
        self._max_backoff_s = max_backoff_s
        self.budget = budget
        self._clock = clock
        self._random = random
        self._upstream = upstream
        self._observer = observer
        self._wall_clock = wall_clock

    async def __call__(self, call: Call) -> Answer:
        self.budget.record(self._clock())
        try:
            answer = await self._next(call)
        except self._errors as error:
            if error.may_be_processed and not call.is_idempotent:
                raise
            failure: Answer | UpstreamError = error
        else:
            if answer.status not in self._statuses or answer.status in call.success or not call.is_idempotent:
                return answer
            failure = answer
        return await self._retry(call, failure)

    async def _retry(self, call: Call, failure: Answer | UpstreamError) -> Answer:
        """Make more attempts after `failure`, until one succeeds or the failure is final."""
        for attempt in range(2, self._attempts + 1):
            if not await self._wait_for(call, attempt, failure):
                break
            try:
                answer = await self._next(call)
            except self._errors as error:
                failure = error
                if error.may_be_processed and not call.is_idempotent:
                    break
            except RejectedError as rejection:
                self._report(call, "retry_denied", rejection.code, attempt)
                break
            else:
                if answer.status not in self._statuses or answer.status in call.success or not call.is_idempotent:
                    return answer
                failure = answer
        if isinstance(failure, Answer):
            return failure
        try:
            raise failure
        finally:
            # Breaks the cycle of exception, traceback and this frame, which would otherwise be left to the garbage collector.
            del failure

    async def _wait_for(self, call: Call, attempt: int, failure: Answer | UpstreamError) -> bool:
        """Wait until it is time for `attempt`. Returns False without waiting if the failure is final."""
        delay_s = full_jitter(attempt - 1, backoff_s=self._backoff_s, max_backoff_s=self._max_backoff_s, random=self._random)
        if isinstance(failure, Answer):
            reason = str(failure.status)
            if failure.status in _RETRY_AFTER_STATUSES and (requested := failure.header(b"retry-after")) is not None:
                delay_s = max(delay_s, retry_after_s(requested, unix_now=self._wall_clock()) or 0.0)
        else:
            reason = failure.code
        now = self._clock()
        if now + delay_s >= call.deadline:
            self._report(call, "retry_denied", "deadline", attempt)
            return False
        if not self.budget.try_spend(now):
            self._report(call, "retry_denied", "budget", attempt)
            return False
        await asyncio.sleep(delay_s)
        self._report(call, "retry", reason, attempt, delay_s)
        return True

    def _report(self, call: Call, kind: EventKind, reason: str, attempt: int, elapsed_s: float = 0.0) -> None:
        if call.notes is not None:
            waited = f", {elapsed_s * 1000:.1f} ms later" if elapsed_s else ""
            call.notes.append(f"retry {attempt} after {reason}{waited}" if kind == "retry" else f"no retry: {reason}")
        if self._observer is not None:
            self._observer(
                PolicyEvent(
                    upstream=self._upstream, kind=kind, reason=reason, elapsed_s=elapsed_s, attempt=call.attempts + 1, address=call.address
                )
            )


def build(next_: Policy, upstream: UpstreamPlan, tools: Tools) -> RetryLayer | None:
    retry = upstream.retry
    if retry is None:
        return None
    return RetryLayer(
        next_,
        attempts=retry.attempts,
        on=retry.on,
        backoff_s=retry.backoff_s,
        max_backoff_s=retry.max_backoff_s,
        budget=Budget.of_share(retry.budget),
        clock=tools.clock,
        random=tools.random,
        upstream=upstream.name,
        observer=tools.observer,
    )


def describe(upstream: UpstreamPlan) -> str | None:
    retry = upstream.retry
    if retry is None:
        return None
    return f"retry up to {retry.attempts} attempts on {', '.join(retry.on)}, budget {format_ratio(retry.budget)}"
