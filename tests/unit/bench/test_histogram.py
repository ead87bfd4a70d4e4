from hypothesis import given
from hypothesis import strategies as st

from bench.histogram import Histogram, bucket, upper_us


@given(st.integers(min_value=0, max_value=10**10))
def test_a_bucket_holds_its_value_and_is_narrower_than_one_in_128(value: int) -> None:
    upper = upper_us(bucket(value))
    assert value <= upper
    assert upper - value <= value / 128


@given(st.integers(min_value=0, max_value=10**10))
def test_buckets_keep_the_order_of_values(value: int) -> None:
    assert bucket(value) <= bucket(value + 1) <= bucket(value) + 1


@given(st.lists(st.integers(min_value=0, max_value=200), min_size=1), st.sampled_from([50, 99, 99.9, 100]))
def test_a_percentile_of_small_values_is_exact(values: list[int], percent: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.record((value + 0.5) / 1e6)
    found = histogram.percentile_us(percent)
    assert sum(value <= found for value in values) >= len(values) * percent / 100 - 1e-6
    assert sum(value < found for value in values) < len(values) * percent / 100 + 1e-6


def test_p999_shows_slow_answers_only_when_they_exceed_one_in_a_thousand() -> None:
    histogram = Histogram({100: 999, bucket(1_000_000): 1})
    assert histogram.percentile_us(99.9) == 100
    histogram = Histogram({100: 998, bucket(1_000_000): 2})
    assert histogram.percentile_us(99.9) >= 1_000_000


def test_percentile_of_an_empty_histogram_is_zero() -> None:
    assert Histogram().percentile_us(99) == 0
