"""The memory of entries: its bounds, and what it is told of purges."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from anabranch.cache.entries import Entries
from anabranch.cache.entry import Entry
from anabranch.cache.fields import age
from anabranch.cache.keys import recorded_origin
from anabranch.cache.memory import Bounds, Memory
from anabranch.cache.purge import Purge
from anabranch.core.exchange import Request
from tests.support.policies import answer


def entry(name: str, body: bytes = b"", *, path: str = "/x", tags: tuple[str, ...] = (), requested_s: float = 100.0) -> Entry:
    return Entry(name.encode(), "a", path, answer(200, body), requested_s, requested_s, 1e9, 0.0, 0.0, True, False, b"", b"", tags)


def test_the_memory_keeps_its_bounds_and_what_was_asked_for_last() -> None:
    memory = Memory(Bounds(max_entries=3, max_bytes=10_000, max_entry_bytes=9_900))
    for name in "abc":
        memory.put(entry(name, b"x" * 1000))
    assert memory.get(b"a") is not None
    memory.put(entry("d"))
    assert [memory.get(name.encode()) is not None for name in "abcd"] == [True, False, True, True]
    assert memory.put(entry("big", b"x" * 9_000))
    assert memory.size_bytes <= 10_000
    assert (len(memory), memory.evictions) == (1, 4)
    assert not memory.put(entry("huge", b"x" * 9_500))
    assert memory.get(b"huge") is None
    assert memory.get(b"big") is not None
    memory.put(entry("big", b"y"))
    memory.bound(Bounds(max_entries=1, max_bytes=100, max_entry_bytes=100))
    assert (len(memory), memory.size_bytes) == (0, 0)


async def test_a_purge_removes_what_it_names() -> None:
    entries = Entries(Memory(Bounds()), clock=lambda: 200.0)
    for one in (entry("a", path="/u/1", tags=("u-1",)), entry("b", path="/u/2", tags=("u-2", "x")), entry("c", path="/v")):
        entries.memory.put(one)
    assert await entries.purge(tags=["u-1", "nothing"]) == 1
    assert [listed.path for listed in entries.ls()] == ["/v", "/u/2"]
    assert await entries.purge(paths=["/u/*"]) == 1
    assert await entries.purge(paths=["/v/"]) == 0
    assert await entries.purge(everything=True) == 1
    assert (len(entries.memory), entries.memory.size_bytes) == (0, 0)


@given(
    stored=st.lists(
        st.tuples(st.sampled_from("uv"), st.sampled_from(["/a", "/a/b", "/b"]), st.sets(st.sampled_from("st")), st.booleans()), max_size=12
    ),
    named=st.lists(st.sampled_from(["s", "t", "/a", "/a*", "/*", "/c", "everything"]), max_size=3),
)
def test_a_purge_removes_all_that_it_concerns_and_nothing_else(stored: list[tuple[str, str, set[str], bool]], named: list[str]) -> None:
    memory = Memory(Bounds())
    slots = [
        structs.replace(entry(str(number), path=path, tags=tuple(tags)), upstream=upstream, is_fallback=is_fallback)
        for number, (upstream, path, tags, is_fallback) in enumerate(stored)
    ]
    for slot in slots:
        memory.put(slot)
    tags, paths = [name for name in named if len(name) == 1], [name for name in named if name.startswith("/")]
    message = Purge(200.0, b"", tuple(tags), tuple(paths), (), "everything" in named)
    left = [slot for slot in slots if not message.concerns(slot)]
    assert memory.purge(message) == len(slots) - len(left)
    assert list(memory.entries()) == left
    memory.forget_shared()
    assert list(memory.entries()) == [slot for slot in left if slot.is_fallback]
    memory.purge(Purge(200.0, b"", everything=True))
    assert (len(memory), memory.size_bytes, memory.purged) == (0, 0, len(slots) - len(left) + sum(slot.is_fallback for slot in left))


async def test_an_answer_that_was_on_its_way_during_a_purge_is_not_stored() -> None:
    now = 200.0
    entries = Entries(Memory(Bounds()), clock=lambda: now)
    await entries.purge(tags=["t"])
    assert not entries.memory.put(entry("a", tags=("t",), requested_s=199.0))
    assert entries.memory.put(entry("b", tags=("u",), requested_s=199.0))
    assert entries.memory.put(entry("a", tags=("t",), requested_s=201.0))
    await entries.changed("a", ["/x"])
    assert len(entries.memory) == 0
    assert not entries.memory.put(entry("a", requested_s=199.0))


async def test_a_listing_says_how_fresh_entries_are() -> None:
    entries = Entries(Memory(Bounds()), clock=lambda: 130.0)
    entries.memory.put(entry("a", tags=("t",)))
    (listed,) = entries.ls()
    assert (listed.upstream, listed.path, listed.status, listed.age_s, listed.tags) == ("a", "/x", 200, 30.0, ("t",))
    assert listed.fresh_s == 1e9 - 130
    entries.memory.put(structs.replace(entry("a"), fresh_until_s=0.0))
    assert [listed.fresh_s for listed in entries.ls()] == [0.0]


@pytest.mark.parametrize(
    ("text", "seconds"), [("7", 7), ("x", 0), ("-1", 0), ("9" * 30, 2**31), ("99999999999", 2**31), ("5, 7", 5), ("1.5", 0), ("", 0)]
)
def test_an_age_is_believed_within_reason(text: str, seconds: float) -> None:
    assert age(answer(200, age=text).headers) == seconds


def test_an_answer_for_one_host_is_not_restored_for_another() -> None:
    def call(host: bytes, address: bytes = b"192.0.2.1") -> Request:
        return Request("GET", "/a", extra=((b"x-request-id", b"r"), (b"x-forwarded-for", address), (b"x-forwarded-host", host)))

    assert recorded_origin("o", call(b"one")) == recorded_origin("o", call(b"one", b"192.0.2.2"))
    assert recorded_origin("o", call(b"one")) != recorded_origin("o", call(b"two"))
    assert recorded_origin("o", call(b"one")).partition("/")[0] == "o"
    assert recorded_origin("o", Request("GET", "/a")) == "o"
