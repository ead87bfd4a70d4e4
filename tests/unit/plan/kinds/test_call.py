"""Calls compiled: their method, whether they may be sent again, how long they can take, and what explain says."""

from typing import Any

import pytest

from anabranch.plan.explain import explain
from anabranch.plan.kinds.call import CallPlan
from tests.support.documents import call_of, plan_of, upstream_plan


def call(step: dict[str, Any], *, method: str = "GET", **upstream: Any) -> CallPlan:
    """The only step of an endpoint."""
    endpoint = {"method": method, "steps": {"s": {"upstream": "a", "path": "/p", **step}}}
    return call_of(plan_of(endpoint, upstreams={"a": {"url": "http://127.0.0.1:1", **upstream}}).steps[0])


@pytest.mark.parametrize(
    ("endpoint", "step", "method"),
    [
        ("GET", {}, "GET"),
        ("POST", {}, "POST"),
        ("POST", {"method": "PUT"}, "PUT"),
        ("GET", {"body": {}}, "POST"),
    ],
)
def test_the_method_of_a_step_that_is_alone(endpoint: str, step: dict[str, Any], method: str) -> None:
    assert call(step, method=endpoint).method == method


def test_among_several_steps_only_one_with_a_body_has_the_endpoints_method() -> None:
    plan = plan_of({"method": "PUT", "steps": {"x": {"upstream": "a", "path": "/"}, "y": {"upstream": "b", "path": "/", "body": "{body}"}}})
    assert [call_of(step).method for step in plan.steps] == ["GET", "PUT"]


@pytest.mark.parametrize(
    ("step", "is_idempotent"),
    [
        ({}, True),
        ({"method": "PUT"}, True),
        ({"method": "POST"}, False),
        ({"method": "POST", "idempotent": True}, True),
        ({"idempotent": False}, False),
    ],
)
def test_a_call_may_be_sent_again_by_its_method_or_by_the_documents_word(step: dict[str, Any], is_idempotent: bool) -> None:
    made = call(step, retry={"attempts": 3, "backoff": "100ms"}, hedge={"after": "p95"}, timeout="1s")
    assert made.is_idempotent is is_idempotent
    assert made.most_calls == (6 if is_idempotent else 1)
    assert made.worst_case_s == pytest.approx(3.3 if is_idempotent else 1.0)


def test_a_call_that_only_the_deadline_limits_has_no_longest_time_of_its_own() -> None:
    assert call({}, retry={}).worst_case_s == 0


def test_explain_says_what_is_called_and_on_which_condition() -> None:
    step = {"path": "/p/{x.id}", "coalesce": True, "stale_if_error": "1m", "when": "{x.id} != null", "required": True}
    plan = plan_of({"steps": {"x": {"upstream": "b", "path": "/x"}, "s": {"upstream": "a", **step}}})
    upstreams = {name: upstream_plan(name) for name in "ab"}
    text = explain(plan, upstreams, lambda upstream: [f"attempt of {upstream.name}"])
    assert "s: GET /p/{x.id} at a; required, when {x.id} != null, splice, coalesced, stale if error, until the deadline" in text
    assert "policies of a: attempt of a" in text
    assert plan.steps[1].operation.facts() == {"upstream": "a", "cache": {"stale_if_error": "1m"}}
