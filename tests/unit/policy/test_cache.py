"""A call is answered from a stored answer where the rules allow it, never from another principal's, and one missing answer is asked for once."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random

import msgspec
import pytest

from anabranch.cache.entries import Entries
from anabranch.cache.entry import Entry, decode, encode
from anabranch.cache.memory import Bounds, Memory
from anabranch.cache.rule import Caching, Rule, Wanted
from anabranch.core.exchange import Answer, HeaderBlock, Request
from anabranch.core.principal import Principal
from anabranch.errors import ConnectError, NotCached, StepError
from anabranch.plan.decoding import json_fault
from anabranch.policy.cache import CacheLayer
from anabranch.policy.call import Call
from anabranch.policy.coalesce import CoalesceLayer
from anabranch.store.memory import MemoryStore
from anabranch.store.seam import Store, StoreAway
from tests.support.eventually import eventually
from tests.support.policies import Scripted, answer

GET = Request("GET", "/x")
PLAIN = Rule()
BOUNDS = Bounds()


class Clock:
    """Seconds since the epoch, which pass only in tests."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def caching(
    rule: Rule = PLAIN,
    *,
    keyed: frozenset[bytes] = frozenset(),
    wanted: Wanted | None = None,
    extra: bytes = b"",
    tags: tuple[str, ...] = (),
) -> Caching:
    return Caching(rule, b"a", json_fault, keyed, extra, wanted, tags_of=lambda _: tags)


def call_of(
    request: Request = GET,
    how: Caching | None = None,
    *,
    principal: Principal | None = None,
    seconds: float = 5.0,
    is_coalesced: bool = False,
    is_required: bool = True,
) -> Call:
    deadline = asyncio.get_running_loop().time() + seconds
    how = how or caching()
    return Call(
        request, deadline=deadline, is_idempotent=True, is_required=is_required, caching=how, principal=principal, is_coalesced=is_coalesced
    )  # fmt: skip


class Gateway:
    """The layer of one gateway of a fleet."""

    def __init__(self, service: Callable[[Call], object], clock: Clock, store: Store | None = None, *, bounds: Bounds = BOUNDS) -> None:
        self.entries = Entries(Memory(bounds), shared=store, clock=clock)
        self.layer = CacheLayer(service, entries=self.entries, clock=asyncio.get_running_loop().time, upstream="a")  # type: ignore[arg-type]

    async def ask(self, call: Call | None = None) -> Answer:
        return await self.layer(call or call_of())


@asynccontextmanager
async def fleet(service: Callable[[Call], object], clock: Clock, store: Store, count: int = 2) -> AsyncIterator[list[Gateway]]:
    gateways = [Gateway(service, clock, store) for _ in range(count)]
    for gateway in gateways:
        await gateway.entries.__aenter__()
    try:
        yield gateways
    finally:
        for gateway in gateways:
            await gateway.layer.aclose()
            await gateway.entries.__aexit__()


def use_of(call: Call) -> str:
    assert call.cache_use is not None
    return call.cache_use.status


async def test_a_hit_has_the_very_body_of_the_stored_answer_and_asks_nobody() -> None:
    service = Scripted(answer(200, b"1", cache_control="max-age=60"))
    gateway = Gateway(service, Clock())
    first = await gateway.ask()
    call = call_of()
    again = await gateway.ask(call)
    assert again.body is first.body
    assert (len(service.calls), call.attempts, call.is_stored) == (1, 0, True)


async def test_an_answer_becomes_stale_and_is_validated() -> None:
    clock = Clock()
    service = Scripted(
        answer(200, b"1", cache_control="max-age=60", etag='"1"'), answer(304, b"", cache_control="max-age=60"), answer(200, b"2")
    )
    gateway = Gateway(service, clock)
    await gateway.ask()
    clock.now += 61
    call = call_of()
    assert (await gateway.ask(call)).body == b"1"
    assert use_of(call) == "fwd=stale;fwd-status=304;stored;ttl=60"
    assert call.request is GET
    clock.now += 30
    assert (await gateway.ask(call := call_of())).body == b"1"
    assert use_of(call) == "hit;ttl=30"
    clock.now += 31
    assert (await gateway.ask()).body == b"2"


async def test_a_head_is_answered_from_the_answer_to_a_get_and_freshens_it() -> None:
    clock = Clock()
    service = Scripted(
        answer(200, b"1", cache_control="max-age=60", etag='"1"'), answer(200, b"", cache_control="max-age=60", etag='"1"'), answer(200, b"", etag='"2"')
    )  # fmt: skip
    gateway = Gateway(service, clock)
    await gateway.ask()
    head = Request("HEAD", "/x")
    found = await gateway.ask(call_of(head))
    assert (found.status, found.body, len(service.calls)) == (200, b"", 1)
    clock.now += 61
    await gateway.ask(call := call_of(head))
    assert use_of(call).startswith("fwd=method")
    assert len(service.calls) == 2
    await gateway.ask(call := call_of())
    assert use_of(call) == "hit;ttl=60"
    clock.now += 61
    await gateway.ask(call_of(head))
    assert len(gateway.entries.memory) == 0


async def test_a_stale_answer_is_validated_in_the_background_even_if_its_caller_leaves() -> None:
    clock = Clock()
    service = Scripted(
        answer(200, b"1", cache_control="max-age=60, stale-while-revalidate=60"), [0.01, answer(200, b"2", cache_control="max-age=60")]
    )
    gateway = Gateway(service, clock)
    await gateway.ask()
    clock.now += 61
    calls = [call_of() for _ in range(5)]
    tasks = [asyncio.create_task(gateway.ask(call)) for call in calls]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [use_of(call) for call in calls] == ["hit;ttl=-1;detail=stale-while-revalidate"] * 5
    await gateway.layer.aclose()
    assert (await gateway.ask()).body == b"2"
    assert len(service.calls) == 2


async def test_validations_that_hang_are_cancelled_at_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anabranch.policy.cache._DRAIN_S", 0.01)
    clock = Clock()
    service = Scripted(answer(200, b"1", cache_control="max-age=0, stale-while-revalidate=60"), [60.0])
    gateway = Gateway(service, clock)
    await gateway.ask()
    await gateway.ask()
    await asyncio.sleep(0.01)
    await gateway.layer.aclose()
    assert service.cancelled == 1


async def test_a_failed_validation_in_the_background_does_not_matter() -> None:
    service = Scripted(answer(200, b"1", cache_control="max-age=0, stale-while-revalidate=60"), ConnectError("x"))
    gateway = Gateway(service, Clock())
    for _ in range(3):
        assert (await gateway.ask()).body == b"1"
        await gateway.layer.aclose()
    assert len(service.calls) == 3


async def test_a_failure_that_the_service_calls_fresh_does_not_replace_what_stands_in_for_it() -> None:
    clock = Clock()
    service = Scripted(answer(200, b"1", cache_control="max-age=1, stale-if-error=60"), answer(503, b"{}", cache_control="max-age=60"))
    gateway = Gateway(service, clock)
    await gateway.ask()
    clock.now += 2
    for _ in range(2):
        call = call_of()
        assert (await gateway.ask(call)).body == b"1"
        assert call.stale_age_s == 2
    clock.now += 100
    assert (await gateway.ask()).status == 503
    assert (await gateway.ask(call := call_of())).status == 503
    assert use_of(call).startswith("hit")


async def test_one_flight_for_all_who_want_what_is_missing() -> None:
    service = Scripted([0.01, answer(200, b"1", cache_control="max-age=60")])
    gateway = Gateway(service, Clock())
    calls = [call_of() for _ in range(10)]
    await asyncio.gather(*map(gateway.ask, calls))
    assert len(service.calls) == 1
    assert Counter(map(use_of, calls)) == {"fwd=uri-miss;stored;ttl=60": 1, "fwd=uri-miss;collapsed;ttl=60": 9}


async def test_an_answer_that_must_not_be_shared_is_asked_for_by_each() -> None:
    """And from then on nobody waits: Varnish calls that hit-for-miss."""
    service = Scripted([0.01, answer(200, b"1", cache_control="private")])
    gateway = Gateway(service, Clock())
    await asyncio.gather(*(gateway.ask() for _ in range(5)))
    assert len(service.calls) == 5
    service.peak = 0
    await asyncio.gather(*(gateway.ask() for _ in range(5)))
    assert service.peak == 5


STALE_AT_ONCE = [{"cache_control": "max-age=0"}, {"cache_control": "no-cache", "etag": '"1"'}, {"cache_control": "max-age=60", "age": "70"}]


@pytest.mark.parametrize("fields", STALE_AT_ONCE)
async def test_what_is_stale_when_it_arrives_is_asked_for_by_each_without_waiting(fields: dict[str, str]) -> None:
    service = Scripted([0.01, answer(200, b"1", **fields)])
    gateway = Gateway(service, Clock())
    await gateway.ask()
    service.peak = 0
    await asyncio.gather(*(gateway.ask() for _ in range(5)))
    assert service.peak == 5


async def test_a_flight_that_turns_out_to_vary_is_only_for_its_variant() -> None:
    async def service(call: Call) -> Answer:
        await asyncio.sleep(0.005)
        value = dict(call.request.extra).get(b"x-a", b"")
        return answer(200, b'"%b"' % value, cache_control="max-age=60", vary="x-a")

    gateway = Gateway(service, Clock())
    requests = [Request("GET", "/x", extra=((b"x-a", name),)) for name in (b"1", b"2", b"1", b"2")]
    bodies = [found.body for found in await asyncio.gather(*(gateway.ask(call_of(request)) for request in requests))]
    assert bodies == [b'"1"', b'"2"', b'"1"', b'"2"']


async def test_fields_that_are_the_same_in_all_requests_make_no_variants() -> None:
    block = HeaderBlock.of([(b"accept-encoding", b"gzip")])
    how = msgspec.structs.replace(caching(keyed=frozenset({b"x-a"})), is_open=False)
    gateway = Gateway(Scripted(answer(200, b"1", cache_control="max-age=60", vary="accept-encoding, cookie, x-a")), Clock())
    for name in (b"1", b"2", b"1"):
        await gateway.ask(call_of(Request("GET", "/x", block, ((b"x-a", name),)), how))
    assert [type(slot) for slot in gateway.entries.memory.entries()] == [Entry, Entry]
    assert len(gateway.entries.memory) == 2


async def test_a_304_with_another_vary_does_not_widen_whom_an_answer_is_for() -> None:
    """Registries have sent fewer names in `Vary` of a 304 than in that of the answer."""
    clock = Clock()
    service = Scripted(
        answer(200, b"1", cache_control="max-age=1", etag='"1"', vary="x-a, x-b"), answer(304, b"", cache_control="max-age=60", vary="x-a"), answer(200, b"2")
    )  # fmt: skip
    gateway = Gateway(service, clock)
    one = Request("GET", "/x", extra=((b"x-a", b"1"), (b"x-b", b"1")))
    await gateway.ask(call_of(one))
    clock.now += 2
    assert (await gateway.ask(call_of(one))).body == b"1"
    assert (await gateway.ask(call_of(Request("GET", "/x", extra=((b"x-a", b"1"), (b"x-b", b"2")))))).body == b"2"


async def test_the_last_caller_to_leave_ends_the_flight() -> None:
    service = Scripted([60.0])
    gateway = Gateway(service, Clock())
    tasks = [asyncio.create_task(gateway.ask()) for _ in range(2)]
    await asyncio.sleep(0.005)
    tasks[0].cancel()
    await asyncio.sleep(0.005)
    assert (service.running, service.cancelled) == (1, 0)
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (service.running, service.cancelled) == (0, 1)


async def test_what_is_too_large_is_not_stored() -> None:
    service = Scripted(answer(200, b'"' + b"x" * 5000 + b'"', cache_control="max-age=60"))
    gateway = Gateway(service, Clock(), bounds=Bounds(max_entry_bytes=4000))
    await gateway.ask()
    await gateway.ask(call := call_of())
    assert len(service.calls) == 2
    assert use_of(call) == "fwd=uri-miss;detail=too-large"


async def test_a_range_is_not_answered_from_the_whole() -> None:
    service = Scripted(answer(200, b"1", cache_control="max-age=60"), answer(206, b"1"))
    gateway = Gateway(service, Clock())
    await gateway.ask()
    assert (
        await gateway.ask(call := call_of(Request("GET", "/x", extra=((b"range", b"bytes=0-0"),)), caching(wanted=Wanted())))
    ).status == 206
    assert use_of(call) == "fwd=bypass;detail=range"


async def test_only_if_cached_asks_nobody() -> None:
    service = Scripted()
    with pytest.raises(NotCached):
        await Gateway(service, Clock()).ask(call_of(how=caching(wanted=Wanted(only_if_cached=True))))
    assert not service.calls


async def test_a_change_ends_the_answers_of_its_path_also_those_on_their_way() -> None:
    """Read, change, read: the first answer, which arrives last, is older than the change."""
    service = Scripted(
        [0.02, answer(200, b"old", cache_control="max-age=60")], answer(204, b""), answer(200, b"new", cache_control="max-age=60")
    )
    gateway = Gateway(service, clock := Clock())
    reading = asyncio.create_task(gateway.ask())
    await asyncio.sleep(0.005)
    clock.now += 1
    post = Call(Request("POST", "/x?y=1"), deadline=1e9, is_idempotent=False, is_required=True)
    await gateway.ask(post)
    clock.now += 1
    await reading
    assert (await gateway.ask()).body == b"new"


# ------------------------------------------------------------------------------------------------- a fleet


async def test_gateways_of_a_fleet_use_each_others_answers() -> None:
    service = Scripted(answer(200, b"1", cache_control="max-age=60"))
    async with fleet(service, Clock(), MemoryStore()) as (one, other):
        await one.ask()
        await eventually(lambda: not one.layer._tasks)
        call = call_of()
        assert (await other.ask(call)).body == b"1"
        assert use_of(call) == "hit;ttl=60"
        assert len(service.calls) == 1


async def test_a_fleet_asks_once_for_what_is_missing() -> None:
    service = Scripted([0.05, answer(200, b"1", cache_control="max-age=60")])
    async with fleet(service, Clock(), MemoryStore(), 4) as gateways:
        found = await asyncio.gather(*(gateway.ask() for gateway in gateways for _ in range(5)))
        assert {one.body for one in found} == {b"1"}
        assert len(service.calls) == 1


async def test_a_fleet_asks_once_when_the_answer_arrives_between_looking_and_leasing() -> None:
    class Late(MemoryStore):
        """The first one that wants a lease is late."""

        def __init__(self) -> None:
            super().__init__()
            self.gates = [asyncio.Event()]

        async def lease(self, key: bytes, ttl_s: float) -> bytes | None:
            if self.gates:
                await self.gates.pop().wait()
            return await super().lease(key, ttl_s)

    service = Scripted(answer(200, b"1", cache_control="max-age=60"), answer(200, b"2"))
    store = Late()
    (gate,) = store.gates
    async with fleet(service, Clock(), store) as (one, other):
        late = asyncio.create_task(one.ask())
        await eventually(lambda: not store.gates)
        await other.ask()
        await eventually(lambda: not other.layer._tasks)
        gate.set()
        assert (await late).body == b"1"
        assert len(service.calls) == 1


async def test_a_client_that_wants_a_new_answer_gets_none_from_the_store() -> None:
    service = Scripted(answer(200, b"1", cache_control="max-age=60"), answer(200, b"2"))
    async with fleet(service, Clock(), MemoryStore()) as (one, other):
        await one.ask()
        await eventually(lambda: not one.layer._tasks)
        assert (await other.ask(call_of(how=caching(wanted=Wanted(no_cache=True))))).body == b"2"


async def test_a_fleet_does_not_wait_for_what_cannot_be_stored() -> None:
    service = Scripted([0.03, answer(200, b"1", cache_control="no-store")])
    async with fleet(service, Clock(), MemoryStore()) as (one, other):
        await asyncio.gather(one.ask(), other.ask())
        assert len(service.calls) == 2
        service.peak = 0
        await asyncio.gather(one.ask(), other.ask())
        assert service.peak == 2


@pytest.mark.parametrize("fields", STALE_AT_ONCE)
async def test_gateways_of_a_fleet_do_not_queue_for_what_is_stale_when_it_arrives(fields: dict[str, str]) -> None:
    service = Scripted([0.1, answer(200, b"1", **fields)])
    async with fleet(service, Clock(), MemoryStore(), 5) as gateways:
        await asyncio.gather(*(gateway.ask() for gateway in gateways))
        assert service.peak == 4
        service.peak = 0
        await asyncio.gather(*(gateway.ask() for gateway in gateways))
        assert service.peak == 5


async def test_a_fleet_goes_on_when_the_gateway_that_asks_is_gone() -> None:
    store = MemoryStore()
    service = Scripted(answer(200, b"1", cache_control="max-age=60"))
    async with fleet(service, Clock(), store) as (one, other):
        assert one.entries.shared is not None
        key = b"\n".join((b"a", b"/x "))
        assert await one.entries.shared.lease(key, 60)
        assert (await other.ask(call_of(seconds=0.2))).body == b"1"


@pytest.mark.parametrize("is_everything", [False, True])
async def test_a_purge_reaches_all_gateways_and_what_is_stored_for_later(is_everything: bool) -> None:
    clock, store = Clock(), MemoryStore()
    service = Scripted(answer(200, b"1", cache_control="max-age=600"))
    how = caching(tags=("t", "u"))
    async with fleet(service, clock, store, 3) as (one, other, third):
        for gateway in (one, other):
            await gateway.ask(call_of(how=how))
            await eventually(lambda: not one.layer._tasks)
        assert len(service.calls) == 1
        clock.now += 5
        assert await one.entries.purge(tags=() if is_everything else ["t"], everything=is_everything) == 1
        assert len(other.entries.memory) == 0
        clock.now += 5
        # The third one has heard of it, but finds the entry in the shared store.
        await third.ask(call_of(how=how))
        assert len(service.calls) == 2
        await eventually(lambda: not third.layer._tasks)
        await other.ask(call_of(how=how))
        assert len(service.calls) == 2


async def test_a_gateway_that_shuts_down_gives_back_what_it_has_leased(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anabranch.policy.cache._DRAIN_S", 0.01)
    store = MemoryStore()
    service = Scripted([60.0], answer(200, b"1", cache_control="max-age=60"))
    async with fleet(service, Clock(), store) as (one, other):
        asking = asyncio.create_task(one.ask())
        await eventually(lambda: service.running == 1)
        await one.layer.aclose()
        with pytest.raises(StepError):
            await asking
        await other.ask(call := call_of(seconds=60))
        assert use_of(call) == "fwd=uri-miss;stored;ttl=60"


async def test_a_purge_by_path_is_known_to_gateways_that_start_later() -> None:
    clock, store = Clock(), MemoryStore()
    service = Scripted(answer(200, b"1", cache_control="max-age=600"))
    async with fleet(service, clock, store, 1) as (one,):
        await one.ask()
        await eventually(lambda: not one.layer._tasks)
        clock.now += 5
        await one.entries.purge(paths=["/x*"])
    clock.now += 5
    async with fleet(service, clock, store, 1) as (later,):
        await later.ask()
    assert len(service.calls) == 2


async def test_a_change_reaches_all_gateways() -> None:
    clock, store = Clock(), MemoryStore()
    service = Scripted(answer(200, b"1", cache_control="max-age=600"), answer(204, b""), answer(200, b"2", cache_control="max-age=600"))
    async with fleet(service, clock, store) as (one, other):
        await one.ask()
        await eventually(lambda: not one.layer._tasks)
        clock.now += 5
        await other.ask(Call(Request("DELETE", "/x"), deadline=1e9, is_idempotent=True, is_required=True))
        clock.now += 5
        assert (await one.ask()).body == b"2"


class Broken(MemoryStore):
    """A store that is away."""

    is_away = True

    async def get(self, key: bytes) -> bytes | None:
        if self.is_away:
            raise StoreAway("away")
        return await super().get(key)

    async def put(self, key: bytes, value: bytes, ttl_s: float) -> None:
        if self.is_away:
            raise StoreAway("away")
        await super().put(key, value, ttl_s)

    async def lease(self, key: bytes, ttl_s: float) -> bytes | None:
        if self.is_away:
            raise StoreAway("away")
        return await super().lease(key, ttl_s)

    async def publish(self, channel: bytes, message: bytes) -> None:
        if self.is_away:
            raise StoreAway("away")
        await super().publish(channel, message)


async def test_while_the_store_is_away_memory_and_service_go_on() -> None:
    store = Broken()
    service = Scripted(answer(200, b"1", cache_control="max-age=60"), answer(200, b"2", cache_control="max-age=60"))
    async with fleet(service, Clock(), store) as (one, other):
        await one.ask()
        await one.ask(call := call_of())
        assert use_of(call) == "hit;ttl=60"
        assert (await other.ask()).body == b"2"
        await one.ask(Call(Request("POST", "/y"), deadline=1e9, is_idempotent=False, is_required=True))
        with pytest.raises(StoreAway):
            await one.entries.purge(everything=True)
        assert len(one.entries.memory) == 0


async def test_a_gap_in_the_messages_ends_what_other_gateways_may_have_purged() -> None:
    gaps: list[Callable[[], None]] = []

    class Gappy(MemoryStore):
        @asynccontextmanager
        async def subscribe(self, channel: bytes, on_message: Callable[[bytes], None], on_gap: Callable[[], None]) -> AsyncIterator[None]:
            gaps.append(on_gap)
            yield

    async with fleet(Scripted(answer(200, b"1", cache_control="max-age=60")), Clock(), Gappy(), 1) as (one,):
        await one.ask()
        await one.ask(call_of(how=Caching(Rule(stale_if_error_s=9, is_fallback=True), b"f", json_fault, None)))
        gaps[0]()
        assert [entry.is_fallback for entry in one.entries.memory.entries()] == [True]


@pytest.mark.parametrize(
    "harm",
    [
        lambda value: value[:-1],
        lambda value: b"x" + value,
        lambda value: value + b"x",
        lambda _: b"",
        lambda value: value.replace(b"1", b"2"),
    ],
)
async def test_a_broken_or_foreign_value_is_no_entry(harm: Callable[[bytes], bytes]) -> None:
    entry = Entry(b"key", "a", "/x", answer(200, b"1111"), 1, 1, 2, 0, 0, True, False, b'"1"', b"", ("t",))
    value = encode(entry)
    assert decode(value, b"key") == entry
    assert decode(value, b"other") is None
    assert decode(harm(value), b"key") is None


# ------------------------------------------------------------------------------------------------- principals


@pytest.mark.parametrize("seed", range(2))
async def test_no_answer_reaches_another_principal(seed: int) -> None:
    """Random principals and requests through every feature that shares, at once; services that say they do not care who asks."""
    random, store, clock = Random(seed), MemoryStore(), Clock()
    controls = [
        "max-age=60",
        "max-age=0, stale-while-revalidate=9",
        "public, max-age=0, stale-if-error=9",
        "s-maxage=60",
        "no-cache",
        "no-store",
        "private",
        "",
    ]
    asked: Counter[bytes] = Counter()

    async def service(call: Call) -> Answer:
        await asyncio.sleep(random.choice([0, 0, 0.001]))
        owner = _owner(call)
        asked[owner] += 1
        if random.random() < 0.15:
            raise ConnectError("x")
        fields = {"cache_control": random.choice(controls), "etag": '"same for all"'}
        if dict(call.request.extra).get(b"if-none-match") and random.random() < 0.5:
            return answer(304, b"", **fields)
        return answer(200, b'"%b"' % owner, vary=random.choice(["accept", "", "x-other"]), **fields)

    names = ["alice", "bob", "a", "al", "ice", "", "alice\n=3:bob", "\0", "user:1"]
    principals = [None, *(Principal(name, name, via) for name in names for via in ("users", "u"))]
    rules = [Rule(), Rule(ttl_s=5), Rule(stale_if_error_s=9, stale_while_revalidate_s=9), Rule(stale_if_error_s=9, is_fallback=True)]
    hits = wrong = 0

    async def one(outer: CoalesceLayer) -> None:
        nonlocal hits, wrong
        await asyncio.sleep(random.random() * 0.05)
        rule = random.choice(rules)
        keyed = None if rule.is_fallback else frozenset({b"cookie", b"x-tenant"})
        fields = [
            (name, random.choice([b"1", b"2", b"1\n", b""]))
            for name in (b"cookie", b"x-tenant", b"accept", b"x-request-id")
            if random.random() < 0.4
        ]
        how = Caching(rule, b"p%d" % rules.index(rule), json_fault, keyed, extra=random.choice([b"", b"1", b"2"]), tags_of=lambda _: ("t",))
        request = Request("GET", random.choice(["/x", "/y"]), extra=tuple(fields))
        call = call_of(
            request, how, principal=random.choice(principals), is_coalesced=random.random() < 0.5, is_required=random.random() < 0.5
        )
        try:
            found = await outer(call)
        except StepError:
            return
        hits += call.attempts == 0
        wrong += found.body != b'"%b"' % _owner(call)
        clock.now += random.random()
        if random.random() < 0.002:
            await random.choice(gateways).entries.purge(tags=["t"])

    async with fleet(service, clock, store, 2) as gateways:
        alone = Gateway(service, clock)
        each = [*gateways, alone, alone]
        layers = [CoalesceLayer(gateway.layer, clock=asyncio.get_running_loop().time, upstream="a") for gateway in each]
        await asyncio.gather(*(one(random.choice(layers)) for _ in range(2500)))
        await alone.layer.aclose()
    assert wrong == 0
    assert hits > 300


def _owner(call: Call) -> bytes:
    """Whose answer it is: what the service cannot know but by the gateway's keeping clients apart."""
    identity = b"" if call.principal is None else call.principal.identity
    told = sorted(pair for pair in call.request.extra if pair[0] in (b"cookie", b"x-tenant"))
    return repr((identity, call.request.target, told)).encode().replace(b"\\", b"/").replace(b'"', b"'")


async def test_an_answer_for_all_is_for_all() -> None:
    service = Scripted(answer(200, b"1", cache_control="max-age=60"))
    gateway = Gateway(service, Clock())
    for name in ("alice", "bob", None):
        principal = None if name is None else Principal(name, name, "users")
        await gateway.ask(call_of(how=caching(Rule(is_public=True)), principal=principal))
    assert len(service.calls) == 1
