"""The store of answers: its bounds, and how old it takes an answer to be."""

import pytest

from anabranch.cache.entries import StaleStore, age_of, recorded_origin
from anabranch.core.exchange import Request
from tests.support.policies import answer


def test_the_store_keeps_its_bounds_and_what_was_asked_for_last() -> None:
    store = StaleStore(max_entries=3, max_bytes=10_000)
    for name in "abc":
        store.put((name,), answer(200, b"x" * 1000), 0)
    assert store.get(("a",)) is not None
    store.put(("d",), answer(200), 0)
    assert [store.get((name,)) is not None for name in "abcd"] == [True, False, True, True]
    store.put(("big",), answer(200, b"x" * 9_000), 0)
    assert store.size_bytes <= 10_000
    assert len(store) == 1
    store.put(("huge",), answer(200, b"x" * 11_000), 0)
    assert store.get(("huge",)) is None
    store.put(("big",), answer(200, b"y"), 0)
    store.bound(max_entries=1, max_bytes=100)
    assert (len(store), store.size_bytes) == (0, 0)


@pytest.mark.parametrize(("text", "seconds"), [("7", 7), ("x", 0), ("-1", 0), ("9" * 30, 0), ("99999999999", 2**31)])
def test_an_age_is_believed_within_reason(text: str, seconds: float) -> None:
    assert age_of(answer(200, age=text)) == seconds


def test_an_answer_for_one_host_is_not_restored_for_another() -> None:
    def call(host: bytes, address: bytes = b"192.0.2.1") -> Request:
        return Request("GET", "/a", extra=((b"x-request-id", b"r"), (b"x-forwarded-for", address), (b"x-forwarded-host", host)))

    assert recorded_origin("o", call(b"one")) == recorded_origin("o", call(b"one", b"192.0.2.2"))
    assert recorded_origin("o", call(b"one")) != recorded_origin("o", call(b"two"))
    assert recorded_origin("o", call(b"one")).partition("/")[0] == "o"
    assert recorded_origin("o", Request("GET", "/a")) == "o"
