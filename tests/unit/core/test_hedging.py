import pytest

from anabranch.core.hedging import FixedDelay, QuantileDelay, hedge_delay


def test_fixed_delay_is_the_one_in_the_document() -> None:
    delay = hedge_delay(0.05)
    assert isinstance(delay, FixedDelay)
    delay.add(0.0, 9.0)
    assert (delay.delay_s(0.0), delay.label) == (0.05, "fixed")


@pytest.mark.parametrize(("label", "minimum"), [("p50", 20), ("p95", 20), ("p99", 100), ("p99.9", 1000)])
def test_quantile_needs_enough_samples(label: str, minimum: int) -> None:
    delay = QuantileDelay(label)
    for _ in range(minimum - 1):
        delay.add(0.0, 0.1)
    assert delay.delay_s(0.0) is None
    delay.add(0.1, 0.1)
    assert delay.delay_s(0.6) == pytest.approx(0.1, rel=0.045)


def test_quantile_follows_the_latency() -> None:
    delay = hedge_delay("p95")
    for number in range(1000):
        delay.add(0.0, number / 1000)
    assert delay.delay_s(0.0) == pytest.approx(0.95, rel=0.045)
    for number in range(1000):
        delay.add(61.0, number / 10000)
    assert delay.delay_s(61.0) == pytest.approx(0.095, rel=0.045)


def test_quantile_is_computed_at_most_twice_a_second() -> None:
    delay = QuantileDelay("p50")
    for _ in range(20):
        delay.add(0.0, 0.1)
    first = delay.delay_s(0.0)
    for _ in range(1000):
        delay.add(0.1, 5.0)
    assert delay.delay_s(0.4) == first
    assert delay.delay_s(0.5) == pytest.approx(5.0, rel=0.045)


def test_quantile_is_unknown_again_after_a_long_silence() -> None:
    delay = QuantileDelay("p50")
    for _ in range(20):
        delay.add(0.0, 0.1)
    assert delay.delay_s(0.0) is not None
    assert delay.delay_s(600.0) is None


@pytest.mark.parametrize("latency_s", [0.001, 0.0101, 0.05, 0.3, 2.0])
def test_delay_is_never_below_a_latency_shared_by_all_calls(latency_s: float) -> None:
    delay = QuantileDelay("p95")
    for _ in range(100):
        delay.add(0.0, latency_s)
    found = delay.delay_s(0.0)
    assert found is not None
    assert latency_s <= found <= 1.045 * latency_s
