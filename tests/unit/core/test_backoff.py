from datetime import UTC, datetime
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.core.backoff import full_jitter, retry_after_s

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(("retry", "longest_s"), [(1, 0.025), (2, 0.05), (3, 0.1), (4, 0.2), (5, 0.25), (9, 0.25)])
def test_wait_doubles_up_to_its_maximum(retry: int, longest_s: float) -> None:
    assert full_jitter(retry, backoff_s=0.025, max_backoff_s=0.25, random=lambda: 1.0) == pytest.approx(longest_s)
    assert full_jitter(retry, backoff_s=0.025, max_backoff_s=0.25, random=lambda: 0.5) == pytest.approx(longest_s / 2)
    assert full_jitter(retry, backoff_s=0.025, max_backoff_s=0.25, random=lambda: 0.0) == 0


@given(st.integers(1, 10), st.integers())
def test_wait_is_never_negative_nor_over_the_maximum(retry: int, seed: int) -> None:
    assert 0 <= full_jitter(retry, backoff_s=0.1, max_backoff_s=0.3, random=Random(seed).random) <= 0.3


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"0", 0.0),
        (b"120", 120.0),
        (b" 3 ", 3.0),
        (b"9" * 5000, float("inf")),
        (b"Sun, 01 Mar 2026 12:00:30 GMT", 30.0),
        (b"Sunday, 01-Mar-26 12:00:30 GMT", 30.0),
        (b"Sun Mar  1 12:00:30 2026", 30.0),
        (b"Sun, 01 Mar 2026 11:59:30 GMT", 0.0),
        (b"-1", None),
        (b"1.5", None),
        (b"", None),
        (b"soon", None),
        (b"\xff\xfe", None),
        (b"Sun, 99 Mar 2026 12:00:30 GMT", None),
    ],
)
def test_retry_after_is_parsed_by_the_rfc(value: bytes, seconds: float | None) -> None:
    assert retry_after_s(value, unix_now=NOW) == seconds


@given(st.binary())
def test_retry_after_never_raises(value: bytes) -> None:
    seconds = retry_after_s(value, unix_now=NOW)
    assert seconds is None or seconds >= 0
