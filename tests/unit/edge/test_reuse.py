"""How long a merged response may be kept, from what is known of its parts. All else is in tests/specs/answer_freshness.yaml."""

from time import monotonic
from typing import Any

import pytest

from anabranch.core.cached import CacheUse
from anabranch.edge.reuse import ReusableResponder, control_of, tag_of
from anabranch.engine.outcome import Outcome
from anabranch.plan.reuse import ReusePlan
from tests.support.edge_plans import endpoint, outcome, result
from tests.support.requests import request_of


def part(name: str, fresh_s: float | None = None, *, started_s: float = 0.0, elapsed_ms: float = 0.0, **use: Any) -> Outcome:
    """The outcome of a call. `fresh_s`: at its end; None: no cache has looked at it."""
    made = outcome(name, elapsed_ms=elapsed_ms)
    made.status, made.started_s = 200, started_s
    made.cache_use = None if fresh_s is None else CacheUse("hit", fresh_s, **use)
    return made


def control(*outcomes: Outcome, age_s: float = 0.0, **plan: Any) -> str:
    """`age_s`: of the request."""
    request = request_of(endpoint())
    request.arrived = monotonic() - age_s
    return control_of(ReusePlan(**plan), result(*outcomes), request).decode()


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([part("a", 60.5)], "max-age=60"),
        ([part("a", 60.5), part("b", 10.5)], "max-age=10"),
        ([part("a", 60.5), part("b", -5.0)], "no-cache"),
        ([part("a", 0.9)], "no-cache"),
        ([part("a", 1e12)], "max-age=2147483648"),
        ([part("a", 60.5), part("b", 30.5, is_private=True)], "private, max-age=30"),
        ([part("a", -1.0), part("b", 30.5, is_private=True)], "private, no-cache"),
        ([part("a", 60.5, is_no_store=True), part("b", 30.5, is_private=True)], "no-store"),
        ([part("a", 60.5), part("b")], "no-cache"),
        ([], "no-cache"),
    ],
)
def test_the_least_of_all_parts_counts(outcomes: list[Outcome], expected: str) -> None:
    assert control(*outcomes) == expected


def test_what_has_passed_since_an_answer_came_is_taken_off() -> None:
    early, late = part("a", 60.5, started_s=1.0, elapsed_ms=1000), part("b", 60.5, started_s=1.0, elapsed_ms=9000)
    assert control(early, age_s=10.0) == "max-age=52"
    assert control(late, age_s=10.0) == "max-age=60"


def test_an_answer_is_as_old_as_its_call_took() -> None:
    """RFC 9111 section 4.2.3: the response delay is part of its age."""
    slow = part("a", started_s=0.0, elapsed_ms=20_000)
    slow.headers = [(b"cache-control", b"max-age=60")]
    assert control(slow, age_s=30.0) in ("max-age=30", "max-age=29")


def test_the_age_of_a_stored_part_is_added_because_a_cache_takes_it_off() -> None:
    assert control(part("a", 60.5, age_s=20.9)) == "max-age=80"
    assert control(part("a", -1.0, age_s=20.9)) == "no-cache"


def test_runs_for_elements_count_one_by_one() -> None:
    each = outcome("a")
    for fresh_s in (60.5, 5.5, 7.5):
        each.add(part("a", fresh_s))
    left_out = outcome("a")
    left_out.status = None
    each.add(left_out)
    assert control(each) == "max-age=5"


def test_a_step_counts_by_what_stands_in_for_it() -> None:
    stand_in, asking = part("b", 7.5), outcome("a")
    asking.stand_in = stand_in
    unused = part("c", 1.5)
    assert control(asking, stand_in, unused, stand_ins=frozenset("bc")) == "max-age=7"


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ({"max_age_s": 30}, "private, max-age=30"),
        ({"max_age_s": 30, "is_for_all": True, "is_public": True}, "public, max-age=30"),
        ({"shared_max_age_s": 9}, "private, max-age=60"),
        ({"stale_if_error_s": 9, "stale_while_revalidate_s": 0}, "private, max-age=60, stale-while-revalidate=0, stale-if-error=9"),
        ({"private_because": "x", "max_age_s": 30, "is_immutable": True}, "private, max-age=30, immutable"),
    ],
)
def test_a_rule_of_the_document_sets_its_parts(plan: dict[str, Any], expected: str) -> None:
    assert control(part("a", 60.5, is_private=True), **plan) == expected


def test_a_tag_is_quoted_and_of_the_bytes_alone() -> None:
    assert tag_of(b"{}") == tag_of(bytes(bytearray(b"{}"))) == b'"44136fa355b3678a1146ad16"'
    assert tag_of(b"{} ") != tag_of(b"{}")


def test_head_has_the_tag_of_get() -> None:
    plan = endpoint()
    responder = ReusableResponder(plan.response, ReusePlan())
    got, head = (
        dict(responder.respond(result(part("a", 9.5), body=b"{}"), request_of(plan, method=method)).headers) for method in ("GET", "HEAD")
    )
    assert got[b"etag"] == head[b"etag"] == tag_of(b"{}")
