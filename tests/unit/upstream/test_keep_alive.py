"""What a service says about how long it keeps a connection."""

import pytest

from anabranch.upstream.keep_alive import KeepAlive


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"timeout=5", (4.0, None)),  # Node, uvicorn
        (b"timeout=5, max=100", (4.0, 100)),  # Apache
        (b"timeout=1", (0.75, None)),
        (b"timeout=60", (59.0, None)),
        (b"timeout=0", (0.0, None)),
        (b"max=0", (None, 0)),
        (b"TIMEOUT = 2 , Max=1", (1.5, 1)),
        (b'timeout="15"', (14.0, None)),
        (b"timeout=5.9", (4.0, None)),
        (b"timeout=5, timeout=9", (4.0, None)),
        (b"timeout=99999999999999999999999", (999_999_998.0, None)),
        (b"timeout=-1", (None, None)),
        (b"timeout=soon", (None, None)),
        (b"timeout", (None, None)),
        (b"300", (None, None)),
        (b"", (None, None)),
        (b",;=,", (None, None)),
        (b"timeout=\xb2", (None, None)),
    ],
)
def test_value_is_read_with_a_margin(value: bytes, expected: tuple[float | None, int | None]) -> None:
    assert KeepAlive.parse(value) == expected


def test_time_is_counted_from_the_response() -> None:
    assert KeepAlive(4.0, None).until(100.0) == 104.0
    assert KeepAlive(None, 3).until(100.0) == float("inf")
    assert KeepAlive(4.0, 0).until(100.0) == 100.0


def test_each_request_takes_one_of_those_that_are_left() -> None:
    assert KeepAlive(4.0, 1).after_request().until(100.0) == 100.0
    assert KeepAlive(4.0, None).after_request() == KeepAlive(4.0, None)
