import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.core.quantile import RELATIVE_ERROR, RollingSketch, Sketch

durations = st.floats(2e-6, 3000.0)


def sketch_of(values: list[float]) -> Sketch:
    sketch = Sketch()
    for value in values:
        sketch.add(value)
    return sketch


def test_empty_sketch_is_all_zero() -> None:
    sketch = Sketch()
    assert (sketch.count, sketch.mean_s, sketch.max_s, sketch.quantile(0.5)) == (0, 0.0, 0.0, 0.0)


@given(st.lists(durations, min_size=1, max_size=200), st.floats(0, 1))
def test_every_quantile_is_within_the_relative_error(values: list[float], share: float) -> None:
    exact = sorted(values)[int(share * (len(values) - 1))]
    assert sketch_of(values).quantile(share) == pytest.approx(exact, rel=RELATIVE_ERROR + 1e-6)


@given(st.lists(durations, min_size=1, max_size=50), st.lists(durations, max_size=50))
def test_merged_sketch_is_the_sketch_of_both(left: list[float], right: list[float]) -> None:
    merged, both = sketch_of(left), sketch_of(left + right)
    merged.merge(sketch_of(right))
    shares = (0.0, 0.5, 0.95, 0.99, 1.0)
    assert merged.quantiles(shares) == both.quantiles(shares)
    assert (merged.count, merged.max_s) == (both.count, both.max_s)
    assert merged.mean_s == pytest.approx(both.mean_s)


def test_count_mean_and_maximum_are_exact() -> None:
    sketch = sketch_of([0.1, 0.2, 0.6])
    assert (sketch.count, sketch.max_s) == (3, 0.6)
    assert sketch.mean_s == pytest.approx(0.3)
    assert sketch.quantile(1.0) <= 0.6


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-9, 1e-6, 3600.0, 1e9, float("inf")])
def test_values_outside_the_range_are_counted_at_its_ends(value: float) -> None:
    sketch = sketch_of([value])
    assert sketch.count == 1
    assert sketch.quantile(0.5) <= max(value, 1e-6)


def test_rolling_sketch_drops_old_samples() -> None:
    sketch = RollingSketch(10)
    sketch.add(0.0, 1.0)
    sketch.add(9.0, 2.0)
    assert sketch.recent(9.0).count == 2
    sketch.add(12.0, 3.0)
    assert sketch.recent(12.0).count == 3
    assert sketch.recent(19.0).count == 3
    assert sketch.recent(23.0).count == 1
    assert sketch.recent(60.0).count == 0


def test_reading_the_recent_past_does_not_change_the_sketch() -> None:
    sketch = RollingSketch(10)
    sketch.add(0.0, 1.0)
    sketch.recent(0.0).add(5.0)
    assert sketch.recent(0.0).count == 1
