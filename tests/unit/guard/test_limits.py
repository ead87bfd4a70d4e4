"""Limits as guards: keys, workers, the shared store and its absence."""

from collections.abc import Sequence
from typing import Any

import pytest

from anabranch.core.rate import Bucket, Verdict
from anabranch.errors import RateLimited, Unavailable
from anabranch.guard.guarding import Guarding
from anabranch.guard.limits import LimitGuard, cost_of
from anabranch.guard.stack import build_guards
from anabranch.guard.tools import Tools
from anabranch.store.memory import MemoryStore
from anabranch.store.seam import StoreAway
from tests.support.documents import plan_of
from tests.support.requests import request_of


class Recording(MemoryStore):
    """Notes what was asked, and is away when it is told so."""

    def __init__(self) -> None:
        super().__init__(clock=lambda: 1_000_000.0)
        self.asked: list[list[bytes]] = []
        self.is_away = False

    async def take(self, buckets: Sequence[Bucket], cost: float) -> list[Verdict]:
        self.asked.append([bucket.key for bucket in buckets])
        if self.is_away:
            raise StoreAway
        return await super().take(buckets, cost)


def guards_of(
    limits: dict[str, Any], *, workers: int = 1, shared: Recording | None = None, **endpoint: Any
) -> tuple[Any, list[LimitGuard], Guarding]:
    written = {"path": "/it", "rate_limits": list(limits), "steps": {"a": {"upstream": "a", "path": "/a"}}, **endpoint}
    stored = {"store": {"redis": {"url": "redis://127.0.0.1:1"}}} if shared is not None else {}
    plan = plan_of(written, rate_limits=limits, **stored)
    memory = MemoryStore(clock=lambda: 1_000_000.0)
    guarding = Guarding({}, Tools(memory=memory, shared=shared, workers=workers))
    found = [guard for stage in build_guards(plan, guarding) for guard in stage if isinstance(guard, LimitGuard)]
    return plan, found, guarding


async def admitted(plan: Any, guard: LimitGuard, *, times: int, headers: list[tuple[bytes, bytes]] | None = None) -> int:
    count = 0
    for _ in range(times):
        try:
            await guard(request_of(plan, lines=headers or []))
        except RateLimited:
            continue
        count += 1
    return count


@pytest.mark.parametrize(("limit", "workers", "most"), [({"rate": "10/1h"}, 4, 2), ({"rate": "2/1h"}, 4, 1), ({"quota": "10/1h"}, 3, 3)])
async def test_workers_divide_a_limit_in_memory_but_not_below_one(limit: dict[str, Any], workers: int, most: int) -> None:
    plan, (guard,), _ = guards_of({"public": limit}, workers=workers)
    assert await admitted(plan, guard, times=12) == most


async def test_workers_share_a_limit_in_the_store_as_it_is() -> None:
    shared = Recording()
    plan, (guard,), _ = guards_of({"public": {"rate": "10/1h", "store": "shared"}}, workers=4, shared=shared)
    assert await admitted(plan, guard, times=12) == 10


async def test_limits_in_one_store_are_one_round_trip() -> None:
    """And so a rejected request takes from none of them (Envoy #43113)."""
    shared = Recording()
    limits = {name: {"rate": "10/1h", "quota": "100/1d", "store": "shared", "by": ["header.x"]} for name in ("one", "two")}
    plan, guards, _ = guards_of({**limits, "own": {"rate": "1/1h"}}, shared=shared)
    assert len(guards) == 2
    assert await admitted(plan, guards[0], times=1) == 1
    assert [len(keys) for keys in shared.asked] == [4]
    assert len(set(shared.asked[0])) == 4


@pytest.mark.parametrize("when", ["allow", "deny"])
async def test_store_that_is_away_admits_or_denies_as_the_document_says(when: str) -> None:
    """APISIX #9076, Envoy #4023: a limiter that is away must be no 500, and the operator chooses."""
    shared = Recording()
    plan, (guard,), guarding = guards_of({"public": {"rate": "1/1h", "store": "shared", "when_store_is_away": when}}, shared=shared)
    shared.is_away = True
    request = request_of(plan)
    if when == "allow":
        await guard(request)
        assert request.told is None
    else:
        with pytest.raises(Unavailable) as denied:
            await guard(request)
        assert (denied.value.status, denied.value.headers) == (503, {"retry-after": "1"})
    assert [(sample.metric.name, sample.value) for sample in guarding.tally.samples()] == [("anabranch_rate_limit_unchecked", 1)]
    shared.is_away = False
    await guard(request_of(plan))


async def test_keys_are_bounded_and_apart_whatever_clients_send() -> None:
    """An absent header field is one key too, which is not another client's (Traefik #10307, WSO2 api-platform #632)."""
    shared = Recording()
    plan, (guard,), _ = guards_of({"public": {"rate": "1/1h", "store": "shared", "by": ["header.a", "header.b"]}}, shared=shared)
    values = [(b"x", b"yz"), (b"xy", b"z"), (b"", b"xyz"), (b"1:x", b""), (b"v" * 9000, b""), (b"v" * 9001, b"")]
    for one, other in values:
        assert await admitted(plan, guard, times=2, headers=[(b"a", one), (b"b", other)]) == 1
    keys = {key for (key,) in shared.asked}
    assert len(keys) == len(values)
    assert max(map(len, keys)) < 128


async def test_metrics_count_by_limit() -> None:
    plan, (guard,), guarding = guards_of({"public": {"rate": "2/1h"}})
    await admitted(plan, guard, times=5)
    found = {(sample.metric.name, *sample.labels): sample.value for sample in guarding.samples()}
    assert found["anabranch_rate_limit_admitted", "public"] == 2
    assert found["anabranch_rate_limit_rejected", "public"] == 3


@pytest.mark.parametrize(
    ("value", "cost"),
    [
        (b"3", 3), (b"2.5", 2.5), (b"0", 1), (b"-4", 1), (b"null", 1), (b"true", 1), (b'"7"', 7), (b"[9]", 1), (b"{}", 1), ("8", 8), ("nan", 1),
        ("-inf", 1), ("inf", float("inf")), ("1e999", float("inf")), ("", 1), (5, 5), (True, 1), (None, 1), (10**400, float(1 << 53)),
        (b"1e999", 1),
    ],
)  # fmt: skip
def test_cost_is_never_less_than_one(value: object, cost: float) -> None:
    assert cost_of(value) == cost
