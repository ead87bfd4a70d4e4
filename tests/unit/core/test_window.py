from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from anabranch.core.window import RollingWindow


def test_counts_calls_failures_and_slow_calls() -> None:
    window = RollingWindow(10)
    window.add(1.0, is_failure=True)
    window.add(1.0, is_failure=False, is_slow=True)
    window.add(2.0, is_failure=True, is_slow=True)
    assert (window.calls, window.failures, window.slow) == (3, 2, 2)


def test_calls_older_than_the_window_are_dropped() -> None:
    window = RollingWindow(10)
    window.add(0.5, is_failure=True)
    window.add(5.5, is_failure=False)
    window.advance(9.9)
    assert window.calls == 2
    window.advance(10.1)
    assert (window.calls, window.failures) == (1, 0)
    window.advance(1e9)
    assert window.calls == 0


def test_clock_that_goes_back_counts_into_the_newest_bucket() -> None:
    window = RollingWindow(10)
    window.add(100.0, is_failure=False)
    window.add(50.0, is_failure=True)
    assert (window.calls, window.failures) == (2, 1)
    window.advance(109.0)
    assert window.calls == 2


@given(st.lists(st.tuples(st.floats(0, 30), st.booleans()), max_size=60))
def test_counts_equal_those_of_a_list_of_all_calls(steps: list[tuple[float, bool]]) -> None:
    window = RollingWindow(10)
    calls: deque[tuple[int, bool]] = deque()
    now = 0.0
    for step_s, is_failure in steps:
        now += step_s
        window.add(now, is_failure=is_failure)
        bucket = int(now)
        calls.append((bucket, is_failure))
        while calls[0][0] <= bucket - 10:
            calls.popleft()
        assert window.calls == len(calls)
        assert window.failures == sum(failure for _, failure in calls)
