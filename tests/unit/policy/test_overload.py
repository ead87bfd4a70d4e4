"""The complete stack in front of an overloaded upstream: optional calls are shed first and required ones keep the capacity."""

import asyncio
from collections import Counter
from random import Random
from typing import Any

import pytest

from anabranch.core.exchange import Address, Answer, Request
from anabranch.errors import StepError, UpstreamTimeout
from anabranch.policy.call import Call
from anabranch.policy.stack import build_stack
from anabranch.policy.tools import Tools
from tests.support.documents import upstream_plan
from tests.support.policies import OK

SERVICE_S = 0.1


class Workers:
    """An upstream whose few workers serve one exchange each, while the others wait in its own queue."""

    def __init__(self, count: int, chance: Random) -> None:
        self._free = asyncio.Semaphore(count)
        self._chance = chance

    async def exchange(self, request: Request, address: Address, deadline: float) -> Answer:
        try:
            async with asyncio.timeout_at(deadline), self._free:
                await asyncio.sleep(SERVICE_S * self._chance.uniform(0.5, 1.5))
        except TimeoutError:
            raise UpstreamTimeout("slow", may_be_processed=True) from None
        return OK

    async def aclose(self) -> None:
        pass


async def offer(rate: float, seconds: float, *, required_share: float, concurrency: dict[str, Any]) -> dict[bool, Counter[str]]:
    """Call an upstream that can answer 100 calls a second `rate` times a second. Returns the results of required and optional calls,
    without the first third of the time."""
    chance = Random(7)
    loop = asyncio.get_running_loop()
    upstream = upstream_plan("flights", timeout="800ms", concurrency=concurrency)
    stack = build_stack(upstream, Tools(transport=Workers(10, chance), clock=loop.time, random=chance.random))
    results: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    begins = loop.time() + seconds / 3

    async def client(*, is_required: bool) -> None:
        began = loop.time()
        call = Call(Request("GET", "/"), deadline=began + 1.0, is_idempotent=True, is_required=is_required)
        try:
            await stack.call(call)
            result = "answered"
        except StepError as error:
            result = error.code
        if began >= begins:
            results[is_required][result] += 1

    async with asyncio.TaskGroup() as clients:
        while loop.time() < begins + seconds * 2 / 3:
            clients.create_task(client(is_required=chance.random() < required_share))
            await asyncio.sleep(chance.expovariate(rate))
    assert (stack.bulkhead.in_use, stack.bulkhead.queued) == (0, 0)
    return results


def share_answered(results: Counter[str]) -> float:
    return results["answered"] / results.total()


LIMITS: dict[str, dict[str, Any]] = {
    "fixed": {"limit": 12, "queue": 40},
    "gradient": {"limit": 40, "queue": 40, "adaptive": "gradient", "min": 4, "max": 100},
}


@pytest.mark.parametrize("concurrency", LIMITS.values(), ids=LIMITS.keys())
async def test_overload_costs_only_optional_calls(concurrency: dict[str, Any]) -> None:
    results = await offer(200, 90, required_share=0.35, concurrency=concurrency)
    assert share_answered(results[True]) > 0.99
    # Optional calls get the rest of the capacity.
    assert 0.15 < share_answered(results[False]) < 0.3


@pytest.mark.parametrize("concurrency", LIMITS.values(), ids=LIMITS.keys())
async def test_without_overload_both_kinds_are_answered(concurrency: dict[str, Any]) -> None:
    results = await offer(60, 60, required_share=0.5, concurrency=concurrency)
    assert share_answered(results[True]) > 0.999
    assert share_answered(results[False]) > 0.999


async def test_required_calls_above_capacity_use_all_of_it() -> None:
    results = await offer(300, 60, required_share=0.6, concurrency=LIMITS["fixed"])
    assert 0.5 < share_answered(results[True]) < 0.6
    assert share_answered(results[False]) < 0.01
