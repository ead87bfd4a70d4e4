from hypothesis import given
from hypothesis import strategies as st

from anabranch.core.outlier import OutlierDetector, TargetHealth

DETECTOR = OutlierDetector()


def group(size: int) -> list[TargetHealth]:
    return [TargetHealth() for _ in range(size)]


def fail(everyone: list[TargetHealth], index: int, now: float, times: int = 1) -> list[bool]:
    return [
        DETECTOR.record(now, everyone[index], is_failure=True, elapsed_s=0.01, everyone=everyone)
        for _ in range(times)
    ]  # fmt: skip


def succeed(everyone: list[TargetHealth], index: int, now: float, times: int = 1) -> None:
    for _ in range(times):
        DETECTOR.record(now, everyone[index], is_failure=False, elapsed_s=0.01, everyone=everyone)


def test_failures_in_a_row_eject() -> None:
    everyone = group(2)
    assert fail(everyone, 0, 100.0, 5) == [False] * 4 + [True]
    assert everyone[0].is_ejected(104.9)
    assert not everyone[0].is_ejected(105.0)


def test_success_resets_the_run_of_failures() -> None:
    everyone = group(2)
    for _ in range(4):
        assert not any(fail(everyone, 0, 100.0, 4))
        succeed(everyone, 0, 100.0)


def test_address_that_fails_more_often_than_the_others_is_ejected() -> None:
    everyone = group(3)
    succeed(everyone, 1, 100.0, 50)
    results = []
    for _ in range(10):
        results += fail(everyone, 0, 100.0, 2)
        succeed(everyone, 0, 100.0, 1)
    assert any(results)


def test_failure_rate_ejects_no_address_when_all_fail_equally() -> None:
    everyone = group(3)
    for _ in range(30):
        for index in range(3):
            assert not any(fail(everyone, index, 100.0, 2))
            succeed(everyone, index, 100.0, 1)


def test_one_failure_on_probation_ejects_again_for_longer() -> None:
    everyone = group(2)
    fail(everyone, 0, 100.0, 5)
    assert fail(everyone, 0, 105.5) == [True]
    assert everyone[0].is_ejected(105.5 + 9.9)
    assert not everyone[0].is_ejected(105.5 + 10)


def test_success_ends_probation() -> None:
    everyone = group(2)
    fail(everyone, 0, 100.0, 5)
    succeed(everyone, 0, 105.5)
    assert fail(everyone, 0, 105.6, 4) == [False] * 4


def test_ejection_time_stops_growing() -> None:
    everyone = group(2)
    fail(everyone, 0, 0.0, 5)
    for _ in range(12):
        now = everyone[0].ejected_until + 1
        fail(everyone, 0, now)
        assert everyone[0].ejected_until - now <= OutlierDetector.LONGEST_S
    assert everyone[0].ejected_until - now == OutlierDetector.LONGEST_S


def test_ejection_count_falls_while_the_address_is_healthy() -> None:
    everyone = group(2)
    fail(everyone, 0, 0.0, 5)
    fail(everyone, 0, 6.0)
    assert everyone[0].ejections == 2
    succeed(everyone, 0, 17.0)
    fail(everyone, 0, 1000.0, 5)
    assert everyone[0].ejections == 1


def test_exchange_begun_before_the_return_is_ignored() -> None:
    everyone = group(2)
    fail(everyone, 0, 100.0, 5)
    assert not DETECTOR.record(106.0, everyone[0], is_failure=True, elapsed_s=3.0, everyone=everyone)
    assert not everyone[0].is_ejected(106.0)


def test_single_address_is_never_ejected() -> None:
    everyone = group(1)
    assert not any(fail(everyone, 0, 100.0, 50))


@given(st.integers(1, 7), st.lists(st.tuples(st.integers(0, 6), st.floats(0, 3), st.integers(1, 6)), max_size=80))
def test_never_more_than_half_are_ejected(size: int, steps: list[tuple[int, float, int]]) -> None:
    everyone = group(size)
    now = 100.0
    for index, step_s, times in steps:
        now += step_s
        fail(everyone, index % size, now, times)
        assert 2 * sum(health.is_ejected(now) for health in everyone) <= size
