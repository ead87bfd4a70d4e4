"""One log event per request: what was requested, what was answered, how long each step took and why it failed.

Healthy requests are left out or sampled; failures are always logged. Queries, header fields and bodies are never logged.
"""

from collections.abc import Callable
from typing import Any, Final, Literal

import structlog

from anabranch.engine.event import ResponseEvent
from anabranch.engine.outcome import Outcome
from anabranch.errors import ConditionFailed, MissingReference
from anabranch.plan.model import EndpointPlan

Choice = Literal["off", "errors", "all"] | float

_MAX_PATH_CHARS: Final = 1024
_MOST_STEPS: Final = 50
"""In one event: the failed ones first."""


class AccessLog:
    """Called with each request. `choice`: `errors` logs answers with status 500 and above and partial ones; `all` logs every request; a
    number from 0 to 1 logs all errors and this share of the rest, spread evenly. `events`: where the events go.

    A client's mistake (4xx), and an answer that lacks only what services do not have, are no errors.
    """

    def __init__(self, events: structlog.typing.FilteringBoundLogger, choice: Choice) -> None:
        self._events = events
        self._share = {"off": 0.0, "errors": 0.0, "all": 1.0}[choice] if isinstance(choice, str) else choice
        self._due = 0.0

    def observer_of(self, plan: EndpointPlan | None) -> Callable[[ResponseEvent], None]:
        return self

    def __call__(self, event: ResponseEvent) -> None:
        if event.status < 500 and (event.is_complete is not False or event.is_absent):
            if not self._share:
                return
            self._due += self._share
            if self._due < 1:
                return
            self._due -= 1
            self._events.info("request", **described(event))
        elif event.status < 500:
            self._events.warning("request", **described(event))
        else:
            self._events.error("request", **described(event))


def described(event: ResponseEvent) -> dict[str, Any]:
    """The event's fields. Times are in milliseconds. `queue_ms`: total of all steps. `trace_id`: left out when there is none."""
    outcomes = [] if event.result is None else event.result.outcomes
    fields: dict[str, Any] = {
        "endpoint": event.endpoint,
        "method": event.method,
        "path": event.path[:_MAX_PATH_CHARS],
        "status": event.status,
        "complete": event.is_complete,
        "elapsed_ms": _ms(event.elapsed_s),
        "queue_ms": _ms(sum(outcome.queue_s for outcome in outcomes)),
        "sent_bytes": event.sent_bytes,
        "request_id": event.request_id.decode(),
    }
    if event.traceparent is not None:
        fields["trace_id"] = event.traceparent[3:35].decode()
    if event.code is not None:
        fields["code"] = event.code
    if event.is_absent:
        fields["absent"] = True
    if outcomes:
        shown = outcomes
        if len(outcomes) > _MOST_STEPS:
            shown = sorted(outcomes, key=lambda outcome: outcome.first_failure is None)[:_MOST_STEPS]
            fields["more_steps"] = len(outcomes) - _MOST_STEPS
        fields["steps"] = [_step(outcome) for outcome in shown]
    return fields


def _step(outcome: Outcome) -> dict[str, Any]:
    failure = outcome.first_failure
    shown: dict[str, Any] = {
        "step": outcome.step,
        "reason": "ok" if failure is None else failure.code,
        "elapsed_ms": _ms(outcome.elapsed_s),
    }
    if outcome.queue_s:
        shown["queue_ms"] = _ms(outcome.queue_s)
    if outcome.attempts > 1:
        shown["attempts"] = outcome.attempts
    if outcome.status is not None and outcome.failure is not None:
        shown["status"] = outcome.status
    if outcome.shortfall:
        shown["elements"] = outcome.shortfall
    if isinstance(failure, MissingReference | ConditionFailed):
        shown["detail"] = failure.detail  # which reference it was, which no code can say
    return shown


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
