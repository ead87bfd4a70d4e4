"""The response to `?_explain=true`: the endpoint's plan with the outcome of each step. For the operator; contains no values."""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from anabranch.engine.outcome import Outcome, Result
from anabranch.errors import SkippedError
from anabranch.plan.model import EndpointPlan, StepPlan

_MARK: Final = b"_explain=true"


def is_requested(query: bytes) -> bool:
    return _MARK in query and _MARK in query.split(b"&")


def explain(plan: EndpointPlan, result: Result, elapsed_s: float, cache_control: str | None = None) -> bytes:
    """The explanation as JSON. Times in milliseconds; `started_ms` counts from the request's arrival at the engine.

    `state` of a step: `ok`, `failed`, `skipped` (an input was missing), `left_out` (by a condition) or `not_run` (another step's
    failure ended the request first, or nobody asked for it) or `cancelled` (another step of the same `any` answered first). `answered_by`: the step whose
    value stands in its place. `not_needed`: a reference with `?` found null. `not_selected`: by the client, directly or through others. `cache_control`: of the
    response itself, where the gateway computes it; null else, and for a response that must not be kept.
    """
    outcomes = {outcome.step: outcome for outcome in result.outcomes}
    document = {
        "endpoint": plan.name,
        "method": plan.method,
        "path": plan.path,
        "timeout_ms": _ms(plan.timeout_s),
        "status": result.status,
        "complete": result.is_complete,
        "media_type": plan.response.media_type,
        "compression": None if plan.response.compression is None else list(plan.response.compression.codings),
        "cache_control": cache_control,
        "elapsed_ms": _ms(elapsed_s),
        "steps": [_step(plan, step, outcomes.get(step.name), result.left_out) for step in plan.steps],
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2)


def _step(plan: EndpointPlan, step: StepPlan, outcome: Outcome | None, left_out: Mapping[str, str]) -> dict[str, Any]:
    description: dict[str, Any] = {
        "step": step.name,
        "upstream": step.upstream or None,
        "mode": step.mode.value,
        "needs": [plan.steps[index].name for index in step.needs],
        "required": step.is_required,
        "hidden": step.is_hidden,
        "timeout_ms": None if step.timeout_s is None else _ms(step.timeout_s),
    }
    description |= step.operation.facts()
    if outcome is None:
        return {**description, "state": left_out.get(step.name, "not_selected" if step.name in plan.unselected else "not_run")}
    failure = outcome.failure
    state = "ok" if failure is None else "skipped" if isinstance(failure, SkippedError) else "failed"
    return {
        **description,
        "state": state,
        "started_ms": _ms(outcome.started_s),
        "elapsed_ms": _ms(outcome.elapsed_s),
        "queue_ms": _ms(outcome.queue_s),
        **({} if outcome.run_s is None else {"run_ms": _ms(outcome.run_s)}),
        "attempts": outcome.attempts,
        **({} if outcome.stand_in is None else {"answered_by": outcome.stand_in.step}),
        **({} if step.each is None else _items(outcome)),
        "status": outcome.status,
        "failure": None if (first := outcome.first_failure) is None else {"code": first.code, "detail": first.detail},
        "notes": outcome.notes or [],
    }


def _items(outcome: Outcome) -> dict[str, Any]:
    return {
        "elements": outcome.item_count,
        "runs": len(outcome.calls),
        "failed_elements": len(outcome.item_failures),
        "dropped_elements": outcome.dropped_items,
    }


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
