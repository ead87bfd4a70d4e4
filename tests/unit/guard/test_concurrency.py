import pytest

from anabranch.errors import Overloaded
from anabranch.guard.concurrency import ConcurrencyGuard, Gate, build
from anabranch.guard.guarding import Guarding
from anabranch.guard.stack import GUARDS, NO_GUARDS, build_guards
from anabranch.guard.tools import Tools
from tests.support.edge_plans import endpoint
from tests.support.requests import request_of

GUARDING = Guarding({}, Tools())


async def test_rejection_has_retry_after() -> None:
    gate = Gate(limit=1, waiting=0, wait_s=1)
    await gate.enter()
    with pytest.raises(Overloaded) as refused:
        await gate.enter()
    assert refused.value.headers == {"retry-after": "1"}
    gate.leave()


async def test_guard_holds_a_slot_of_its_endpoint_until_the_request_ends() -> None:
    plan = endpoint(max_requests=1)
    (guard,) = build_guards(plan, GUARDING).head
    assert isinstance(guard, ConcurrencyGuard)
    assert guard.gate.waiting == 1
    first = request_of(plan)
    await guard(first)
    assert guard.gate.is_full
    first.end()
    first.end()
    assert guard.gate.bulkhead.in_use == 0
    assert {sample.labels for sample in guard.samples()} == {(plan.name,)}


def test_endpoint_without_limit_has_no_guard() -> None:
    assert build(endpoint(), GUARDING) is None
    assert build_guards(endpoint(), GUARDING) == NO_GUARDS
    assert build in GUARDS
