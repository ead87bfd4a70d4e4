"""A failed call is answered with its own last good answer, never with another principal's and never with one that is too old."""

import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.cache.entries import Entries
from anabranch.cache.judge import judge
from anabranch.cache.keys import key_of, recorded_key
from anabranch.cache.memory import Bounds, Memory
from anabranch.cache.rule import Caching, Rule
from anabranch.core.exchange import ANY_2XX, Answer, HeaderBlock, Request
from anabranch.errors import BreakerOpen, ConnectError, QueueFull, StepError, UpstreamTimeout
from anabranch.plan.decoding import json_fault
from anabranch.policy.cache import CacheLayer
from anabranch.policy.call import Call
from anabranch.policy.coalesce import CoalesceLayer
from anabranch.policy.event import PolicyEvent
from tests.support.policies import Scripted, answer


def caching_of(origin: str = "", prefix: bytes = b"a") -> Caching:
    return Caching(Rule(stale_if_error_s=60.0, is_fallback=True), prefix, json_fault, None, origin=origin)


RULE = caching_of()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def call_of(request: Request, rule: Caching | None = RULE, *, is_required: bool = True, wants_notes: bool = False) -> Call:
    return Call(request, deadline=1e9, is_idempotent=True, is_required=is_required, wants_notes=wants_notes, caching=rule)


def layer_of(next_: Scripted, clock: Clock, *, entries: Entries | None = None, events: list[PolicyEvent] | None = None) -> CacheLayer:
    entries = entries or Entries(Memory(Bounds()), clock=clock)
    return CacheLayer(next_, entries=entries, clock=clock, upstream="a", observer=None if events is None else events.append)


GET = Request("GET", "/x")


@pytest.mark.parametrize(
    "failure",
    [ConnectError("x"), UpstreamTimeout("x"), BreakerOpen("x"), QueueFull("x"), answer(500), answer(503), answer(200, b"<html>")],
    ids=lambda failure: failure.code if isinstance(failure, StepError) else str(failure.status),
)
async def test_a_failure_is_answered_with_the_last_good_answer(failure: StepError | Answer) -> None:
    clock, events = Clock(), list[PolicyEvent]()
    layer = layer_of(Scripted(answer(200, b"1"), answer(200, b"2"), failure), clock, events=events)
    await layer(call_of(GET))
    await layer(call_of(GET))
    clock.now += 12.5
    call = call_of(GET, wants_notes=True)
    assert (await layer(call)).body == b"2"
    assert call.stale_age_s == 12.5
    assert call.notes is not None
    assert call.notes[-1].startswith("stale response, 12.5 s old, instead of ")
    assert [event.kind for event in events] == ["stale"]


async def test_an_answer_that_is_too_old_is_not_served() -> None:
    clock = Clock()
    layer = layer_of(Scripted(answer(200, b"1"), ConnectError("x")), clock)
    await layer(call_of(GET))
    clock.now += 60.1
    with pytest.raises(ConnectError):
        await layer(call_of(GET))


async def test_the_age_header_of_the_service_counts() -> None:
    clock = Clock()
    layer = layer_of(Scripted(answer(200, b"1", age="50"), ConnectError("x")), clock)
    await layer(call_of(GET))
    clock.now += 5
    call = call_of(GET)
    await layer(call)
    assert call.stale_age_s == 55
    clock.now += 6
    with pytest.raises(ConnectError):
        await layer(call_of(GET))


async def test_without_a_good_answer_the_failure_is_raised() -> None:
    layer = layer_of(Scripted(answer(404), answer(502, b"bad")), Clock())
    assert (await layer(call_of(GET))).status == 404
    call = call_of(GET)
    assert (await layer(call)).body == b"bad"
    assert call.stale_age_s is None


async def test_a_client_error_is_an_answer_and_not_a_failure() -> None:
    layer = layer_of(Scripted(answer(200), answer(404)), Clock())
    await layer(call_of(GET))
    assert (await layer(call_of(GET))).status == 404


async def test_no_store_of_the_service_removes_the_entry() -> None:
    layer = layer_of(Scripted(answer(200), answer(200, cache_control="private, No-Store"), ConnectError("x")), Clock())
    await layer(call_of(GET))
    await layer(call_of(GET))
    with pytest.raises(ConnectError):
        await layer(call_of(GET))


async def test_calls_without_a_rule_pass_through_and_are_not_stored() -> None:
    entries = Entries(Memory(Bounds()))
    layer = layer_of(Scripted(answer(200), ConnectError("x")), Clock(), entries=entries)
    await layer(call_of(GET, None))
    assert len(entries.memory) == 0
    with pytest.raises(ConnectError):
        await layer(call_of(GET, None))


async def test_cancellation_is_not_answered_with_a_stale_answer() -> None:
    layer = layer_of(Scripted(answer(200), [10.0]), Clock())
    await layer(call_of(GET))
    task = asyncio.create_task(_await(layer, call_of(GET)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def _await(layer: CacheLayer, call: Call) -> Answer:
    return await layer(call)


async def test_all_callers_of_a_shared_exchange_see_the_stale_age() -> None:
    layer = layer_of(Scripted(answer(200), [0.01, ConnectError("x")]), Clock())
    await layer(call_of(GET))
    outer = CoalesceLayer(layer, clock=asyncio.get_running_loop().time, upstream="a")
    calls = [Call(GET, deadline=1e9, is_idempotent=True, is_required=True, is_coalesced=True, caching=RULE) for _ in range(3)]
    await asyncio.gather(*(outer(call) for call in calls))
    assert [call.stale_age_s for call in calls] == [0.0] * 3


async def test_an_answer_from_the_journal_is_used_only_for_its_origin() -> None:
    clock = Clock()
    entries = Entries(Memory(Bounds()), clock=clock)
    found = judge(GET, answer(200, b"recorded"), RULE.rule, success=ANY_2XX, requested_s=990.0, received_s=990.0).entry
    assert found is not None
    entries.memory.put(msgspec.structs.replace(found, key=recorded_key("here", "GET", "/x")))
    layer = layer_of(Scripted(ConnectError("x")), clock, entries=entries)
    call = call_of(GET, caching_of("here"))
    assert (await layer(call)).body == b"recorded"
    assert call.stale_age_s == 10
    for rule in (caching_of("there"), RULE):
        with pytest.raises(ConnectError):
            await layer(call_of(GET, rule))


FIELDS = st.lists(
    st.tuples(
        st.sampled_from([b"authorization", b"cookie", b"x-user", b"accept", b"x-request-id", b"traceparent"]),
        st.sampled_from([b"a", b"b", b""]),
    ),
    max_size=3,
).map(tuple)
REQUESTS = st.builds(
    Request,
    method=st.just("GET"),
    target=st.sampled_from(["/x", "/y", "/x?q=1"]),
    headers=FIELDS.map(lambda pairs: HeaderBlock.of(list(pairs))),
    extra=FIELDS,
    body=st.sampled_from([None, b"", b"1"]),
)
NAMES_THE_REQUEST = (b"x-request-id", b"traceparent")


@given(REQUESTS, REQUESTS, st.booleans())
def test_two_principals_never_share_an_answer(one: Request, other: Request, is_required: bool) -> None:
    """Any difference between two requests, except the fields that identify a request, separates their answers."""

    async def ask() -> bool:
        layer = layer_of(Scripted(answer(200, b'"for one"'), ConnectError("x")), Clock())
        await layer(call_of(one))
        try:
            await layer(call_of(other, is_required=is_required))
        except ConnectError:
            return False
        return True

    def sent(request: Request) -> object:
        extra = tuple(pair for pair in request.extra if pair[0] not in NAMES_THE_REQUEST)
        return request.method, request.target, request.headers.pairs, extra, request.body

    assert asyncio.run(ask()) == (sent(one) == sent(other))


def test_upstreams_never_share_an_answer() -> None:
    assert key_of(GET, caching_of(prefix=b"a"), None) != key_of(GET, caching_of(prefix=b"b"), None)
