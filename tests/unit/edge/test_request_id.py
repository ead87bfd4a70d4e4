from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.edge.request_id import is_request_id, is_traceparent, read

PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_request_id_of_the_client_is_used_and_forwarded() -> None:
    trace = read({b"x-request-id": b"abc-123._~"})
    assert trace.request_id == b"abc-123._~"
    assert trace.extra == ((b"x-request-id", b"abc-123._~"),)


@pytest.mark.parametrize("value", [b"", b"a" * 129, b"a b", b"a\tb", b"<script>", "ä".encode(), b'"', b"a,b"])
def test_unusable_request_id_is_replaced(value: bytes) -> None:
    assert not is_request_id(value)
    assert UUID(read({b"x-request-id": value}).request_id.decode()).version == 7


def test_request_id_of_maximum_length_is_used() -> None:
    assert is_request_id(b"a" * 128)


def test_generated_request_ids_are_unique_and_sort_by_time() -> None:
    made = [read({}).request_id for _ in range(100)]
    assert sorted(set(made)) == made


def test_trace_context_is_forwarded_unchanged() -> None:
    trace = read({b"x-request-id": b"r", b"traceparent": PARENT, b"tracestate": b"a=1,b=2"})
    assert trace.extra == ((b"x-request-id", b"r"), (b"traceparent", PARENT), (b"tracestate", b"a=1,b=2"))


def test_trace_state_is_dropped_with_an_invalid_parent() -> None:
    assert read({b"x-request-id": b"r", b"traceparent": PARENT[:-1], b"tracestate": b"a=1"}).extra == ((b"x-request-id", b"r"),)


def test_unprintable_trace_state_is_dropped_alone() -> None:
    assert read({b"x-request-id": b"r", b"traceparent": PARENT, b"tracestate": b"a=\x7f"}).extra[1:] == ((b"traceparent", PARENT),)


@pytest.mark.parametrize(
    ("value", "is_valid"),
    [
        (PARENT, True),
        (PARENT.replace(b"00-", b"cc-", 1), True),
        (PARENT.replace(b"00-", b"cc-", 1) + b"-future", True),
        (PARENT.replace(b"00-", b"cc-", 1) + b"future", False),
        (PARENT.replace(b"00-", b"cc-", 1) + b"-fut\x00", False),
        (PARENT + b"-more", False),
        (PARENT.replace(b"00-", b"ff-", 1), False),
        (PARENT.upper(), False),
        (PARENT.replace(b"4bf92f3577b34da6a3ce929d0e0e4736", b"0" * 32), False),
        (PARENT.replace(b"00f067aa0ba902b7", b"0" * 16), False),
        (PARENT.replace(b"-", b"_"), False),
        (PARENT + b", " + PARENT, False),
        (b"", False),
    ],
)
def test_traceparent_follows_the_standard(value: bytes, is_valid: bool) -> None:
    assert is_traceparent(value) is is_valid


@given(st.binary(max_size=80))
def test_any_traceparent_is_parsed_without_an_exception(value: bytes) -> None:
    read({b"traceparent": value, b"x-request-id": value})
