"""The demo's hooks: the figures are correct, even without data."""

import pytest

from demo.hooks import Flight, delay_summary, mean_delay


def flights(*delays: int | None) -> list[Flight]:
    return [Flight(dep_delay=delay, arr_delay=delay) for delay in delays]


def test_summary_counts_and_ranks() -> None:
    summary = delay_summary(flights(0, 10, 20, 30, None))
    assert summary.model_dump() == {"flights": 5, "cancelled": 1, "on_time_share": 0.5, "median": 15.0, "worst_tenth": 27.0}


@pytest.mark.parametrize(("delays", "median"), [((), None), ((None,), None), ((7,), 7.0)])
def test_summary_of_few_flights(delays: tuple[int | None, ...], median: float | None) -> None:
    assert delay_summary(flights(*delays)).median == median


def test_interval_holds_the_mean() -> None:
    result = mean_delay(flights(*range(100)), resamples=200)
    assert result.low is not None
    assert result.high is not None
    assert result.low < 49.5 < result.high
    assert result.mean == 49.5


def test_interval_of_no_values_is_null() -> None:
    assert mean_delay(flights(None)).mean is None
