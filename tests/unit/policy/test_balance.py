import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random

import pytest

from anabranch.config.model import Breaker as Settings
from anabranch.core.balance import picker_of
from anabranch.core.breaker import Breaker
from anabranch.core.exchange import Address, Answer
from anabranch.errors import BreakerOpen, ConnectError, ResolveError
from anabranch.policy.balance import BalanceLayer
from anabranch.policy.breaker import FailureClassifier
from anabranch.policy.call import Call
from tests.support.policies import OK, Events, answer, make_call

A, B, C = (Address.parse(f"http://127.0.0.{host}:9101") for host in (1, 2, 3))


class Fleet:
    """The next layer: answers 200 from every address except those in `failing` (status) and `refusing`; `delay_s` each."""

    def __init__(self) -> None:
        self.failing: dict[Address, int] = {}
        self.refusing: set[Address] = set()
        self.delay_s: dict[Address, float] = {}
        self.hits: list[Address] = []
        self.during: Callable[[], None] | None = None

    async def __call__(self, call: Call) -> Answer:
        address = call.address
        assert address is not None
        self.hits.append(address)
        call.attempts += 1
        if self.during is not None:
            self.during()
        await asyncio.sleep(self.delay_s.get(address, 0.0))
        if address in self.refusing:
            raise ConnectError("refused")
        return answer(self.failing[address]) if address in self.failing else OK


def make_layer(
    next_: Callable[[Call], Awaitable[Answer]],
    *addresses: Address,
    balance: str = "round_robin",
    has_breaker: bool = False,
    events: Events | None = None,
) -> BalanceLayer:
    def new_breaker() -> Breaker:
        return Breaker(window_s=10, failure_rate=0.5, minimum_calls=2, open_for_s=5, probes=1)

    return BalanceLayer(
        next_,
        addresses=addresses,
        picker=picker_of(balance, Random(1).random),
        classifier=FailureClassifier(Settings().on),
        new_breaker=new_breaker if has_breaker else None,
        clock=asyncio.get_running_loop().time,
        upstream="flights",
        observer=events,
    )


async def run(layer: BalanceLayer, times: int) -> None:
    for _ in range(times):
        with contextlib.suppress(ConnectError):
            await layer(make_call(seconds=60))


async def test_chosen_address_is_set_on_the_call() -> None:
    call = make_call()
    assert await make_layer(Fleet(), A, B)(call) is OK
    assert (call.address, call.avoid) == (A, (A,))


@pytest.mark.parametrize("balance", ["round_robin", "least_pending", "random", "peak_ewma"])
async def test_all_addresses_are_used(balance: str) -> None:
    fleet = Fleet()
    fleet.delay_s = dict.fromkeys((A, B, C), 0.01)
    await run(make_layer(fleet, A, B, C, balance=balance), 300)
    counts = Counter(fleet.hits)
    assert all(counts[address] > 50 for address in (A, B, C))


async def test_peak_ewma_avoids_the_slow_address() -> None:
    fleet = Fleet()
    fleet.delay_s = {A: 0.01, B: 0.01, C: 1.0}
    await run(make_layer(fleet, A, B, C, balance="peak_ewma"), 300)
    assert Counter(fleet.hits)[C] <= 3


async def test_least_pending_avoids_the_hanging_address() -> None:
    fleet = Fleet()
    fleet.delay_s = {A: 30.0, B: 0.01}
    layer = make_layer(fleet, A, B, balance="least_pending")
    hanging = asyncio.ensure_future(layer(make_call(seconds=60)))
    await asyncio.sleep(0)
    await run(layer, 50)
    assert Counter(fleet.hits) == {A: 1, B: 50}
    await hanging


async def test_second_attempt_goes_to_another_address() -> None:
    fleet = Fleet()
    layer = make_layer(fleet, A, B, C, balance="random")
    for _ in range(20):
        call = make_call()
        for _ in range(3):
            await layer(call)
        assert set(fleet.hits[-3:]) == {A, B, C}
        await layer(call)
        assert fleet.hits[-1] in (A, B, C)


async def test_open_breaker_of_one_address_does_not_affect_the_others() -> None:
    fleet, events = Fleet(), Events()
    fleet.failing = {A: 500}
    layer = make_layer(fleet, A, B, has_breaker=True, events=events)
    await run(layer, 4)
    fleet.hits.clear()
    await run(layer, 20)
    assert set(fleet.hits) == {B}
    assert [(event.kind, event.reason, event.address) for event in events] == [("breaker", "open", A)]


async def test_breaker_of_an_address_closes_again_when_it_recovers() -> None:
    fleet, events = Fleet(), Events()
    fleet.failing = {A: 500}
    layer = make_layer(fleet, A, B, has_breaker=True, events=events)
    await run(layer, 4)
    fleet.failing.clear()
    await asyncio.sleep(5)
    await run(layer, 10)
    assert [event.reason for event in events] == ["open", "half_open", "closed"]
    assert Counter(fleet.hits[-6:]) == {A: 3, B: 3}


async def test_all_breakers_open_rejects_with_the_shortest_wait() -> None:
    fleet = Fleet()
    fleet.failing = {A: 500}
    layer = make_layer(fleet, A, B, has_breaker=True)
    await run(layer, 4)
    await asyncio.sleep(2)
    fleet.failing = {B: 500}
    await run(layer, 2)
    hits = len(fleet.hits)
    await asyncio.sleep(1)
    call = make_call(wants_notes=True)
    with pytest.raises(BreakerOpen) as caught:
        await layer(call)
    assert caught.value.retry_after_s == 2
    assert (len(fleet.hits), call.address) == (hits, None)
    assert call.notes == ["the breakers of all addresses are open: nothing was sent"]


async def test_failing_address_is_ejected_and_comes_back() -> None:
    fleet, events = Fleet(), Events()
    fleet.refusing = {A}
    layer = make_layer(fleet, A, B, C, events=events)
    await run(layer, 15)
    fleet.hits.clear()
    await run(layer, 30)
    assert set(fleet.hits) == {B, C}
    fleet.refusing.clear()
    await asyncio.sleep(5)
    await run(layer, 3)
    assert A in fleet.hits
    assert [(event.kind, event.address) for event in events] == [("eject", A), ("restore", A)]


async def test_no_more_than_half_are_ejected() -> None:
    fleet = Fleet()
    fleet.refusing = {A, B, C}
    layer = make_layer(fleet, A, B, C)
    await run(layer, 60)
    assert sum(target.is_out for target in layer.targets) == 1


async def test_ejected_address_is_used_when_the_breakers_of_all_others_are_open() -> None:
    fleet = Fleet()
    layer = make_layer(fleet, A, B, has_breaker=True)
    layer.targets[0].is_out = True
    layer.targets[0].health.ejected_until = asyncio.get_running_loop().time() + 100
    fleet.failing = {B: 500}
    await run(layer, 2)
    fleet.hits.clear()
    await run(layer, 3)
    assert fleet.hits == [A, A, A]


async def test_cancelled_attempt_is_not_counted_and_leaves_nothing_pending() -> None:
    fleet = Fleet()
    fleet.delay_s = {A: 30.0, B: 30.0}
    layer = make_layer(fleet, A, B, has_breaker=True)
    tasks = [asyncio.ensure_future(layer(make_call(seconds=60))) for _ in range(20)]
    await asyncio.sleep(1)
    assert sum(target.load.pending for target in layer.targets) == 20
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert [target.load.pending for target in layer.targets] == [0, 0]
    assert [target.breaker and target.breaker.state for target in layer.targets] == ["closed", "closed"]
    assert not any(target.health.window.calls for target in layer.targets)


async def test_unchanged_addresses_keep_their_state() -> None:
    fleet, events = Fleet(), Events()
    fleet.failing = {A: 500}
    layer = make_layer(fleet, A, B, has_breaker=True, events=events)
    await run(layer, 4)
    known = layer.targets[0]
    layer.set_addresses([C, A])
    assert layer.targets[1] is known
    fleet.hits.clear()
    await run(layer, 5)
    assert set(fleet.hits) == {C}
    assert events.kinds() == ["breaker", "balance"]


async def test_setting_the_same_addresses_is_not_a_change() -> None:
    events = Events()
    layer = make_layer(Fleet(), A, B, events=events)
    before = layer.targets
    layer.set_addresses([A, B, A])
    assert (layer.targets, events) == (before, [])


async def test_attempt_completes_when_its_address_is_removed_meanwhile() -> None:
    fleet = Fleet()
    layer = make_layer(fleet, A, B, has_breaker=True)
    fleet.during = lambda: layer.set_addresses([C])
    assert await layer(make_call()) is OK
    assert [target.address for target in layer.targets] == [C]


async def test_no_address_at_all_is_an_error() -> None:
    with pytest.raises(ResolveError, match="no address"):
        await make_layer(Fleet())(make_call())


async def retried(layer: BalanceLayer) -> Answer:
    """One call with a second attempt, as the retry layer makes it."""
    call = make_call(seconds=60)
    try:
        return await layer(call)
    except ConnectError:
        return await layer(call)


async def test_an_ejected_address_gets_the_second_attempt_when_all_others_have_failed() -> None:
    """A is restarted, then B while A is still ejected: B cannot be ejected as well, and A has recovered."""
    fleet, events = Fleet(), Events()
    layer = make_layer(fleet, A, B, events=events)
    fleet.refusing = {A}
    await run(layer, 12)
    assert [target.is_out for target in layer.targets] == [True, False]
    fleet.refusing = {B}
    fleet.hits.clear()
    assert await retried(layer) is OK
    assert fleet.hits == [B, A]
    assert [target.is_out for target in layer.targets] == [False, False]
    for _ in range(20):
        assert await retried(layer) is OK


async def test_a_second_attempt_beside_a_slow_first_one_does_not_go_to_an_ejected_address() -> None:
    fleet = Fleet()
    layer = make_layer(fleet, A, B)
    fleet.refusing = {A}
    await run(layer, 12)
    call = make_call(seconds=60)
    fleet.hits.clear()
    await layer(call)
    await layer(call)
    assert fleet.hits == [B, B]


async def test_a_success_that_began_before_the_ejection_does_not_end_it() -> None:
    fleet = Fleet()
    layer = make_layer(fleet, A, B)
    fleet.delay_s = {A: 1.0}
    slow = asyncio.ensure_future(layer(make_call(seconds=60)))
    await asyncio.sleep(0.5)
    fleet.delay_s = {}
    fleet.refusing = {A}
    await run(layer, 12)
    assert layer.targets[0].is_out
    fleet.refusing = set()
    with contextlib.suppress(ConnectError):
        await slow
    assert layer.targets[0].is_out
