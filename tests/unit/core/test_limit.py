from random import Random
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.core.limit import AIMDLimit, FixedLimit, GradientLimit, Limit, LimitSignal
from tests.support.overload import Overload

WORKERS = 20
SERVICE_S = 0.02


def make_gradient(initial: int = 64, *, minimum: int = 4, maximum: int = 512, probe_interval_s: float = 30.0) -> GradientLimit:
    return GradientLimit(initial, minimum=minimum, maximum=maximum, random=Random(7).random, probe_interval_s=probe_interval_s)


def overload(limit: Limit, *, rate: float = 1500, workers: int = WORKERS, timeout_s: float = 0.5) -> Overload:
    """50% more calls than the workers can serve."""
    return Overload(limit=limit, rate=rate, workers=workers, service_s=SERVICE_S, timeout_s=timeout_s)


def feed(limit: Limit, seconds: float, *, elapsed_s: float, in_flight: int, outcome: LimitSignal = "success", now: float = 0.0) -> float:
    """One hundred identical samples a second. Returns the time afterwards."""
    end = now + seconds
    while now < end:
        now += 0.01
        limit.sample(now, elapsed_s, in_flight, outcome)
    return now


def test_fixed_limit_learns_nothing() -> None:
    limit = FixedLimit(10)
    feed(limit, 5, elapsed_s=9, in_flight=10, outcome="dropped")
    assert limit.limit == 10


class TestGradient:
    def test_overload_converges_near_the_capacity_without_loss_of_throughput(self) -> None:
        model = overload(make_gradient())
        model.run(20)
        assert WORKERS <= median(model.limits(10, 20)) <= 2 * WORKERS
        assert model.mean_s(10, 20) < 2 * SERVICE_S
        assert model.answered / 20 > 0.97 * WORKERS / SERVICE_S
        assert model.dropped == 0

    def test_limit_follows_a_loss_of_capacity_and_its_return(self) -> None:
        model = overload(make_gradient())
        model.run(15)
        model.workers = WORKERS // 4
        model.run(30)
        assert WORKERS // 4 <= median(model.limits(25, 30)) <= 16
        model.workers = WORKERS
        model.run(45)
        assert WORKERS <= median(model.limits(40, 45)) <= 2 * WORKERS

    def test_long_overload_does_not_drift_to_the_maximum(self) -> None:
        model = overload(make_gradient(), workers=8, rate=600)
        model.run(240)
        assert max(model.limits(60, 240)) <= 24

    def test_initial_limit_far_above_the_capacity_comes_down(self) -> None:
        model = overload(make_gradient(512), workers=8, rate=600, timeout_s=5)
        model.run(60)
        assert median(model.limits(50, 60)) <= 24

    def test_permanently_slower_upstream_regains_its_concurrency(self) -> None:
        model = overload(make_gradient())
        model.run(15)
        model.service_s = 3 * SERVICE_S
        model.rate = 500
        model.run(100)
        assert WORKERS <= median(model.limits(90, 100)) <= 2 * WORKERS

    def test_steady_timeouts_lower_the_limit_to_the_minimum(self) -> None:
        limit = make_gradient(100, minimum=8)
        feed(limit, 30, elapsed_s=0.5, in_flight=100, outcome="dropped")
        assert limit.limit == 8

    def test_few_drops_among_many_successes_hardly_matter(self) -> None:
        limit = make_gradient(100)
        now = 0.0
        for _ in range(30):
            now = feed(limit, 1, elapsed_s=0.02, in_flight=1000, now=now)
            limit.sample(now, 0.5, 1000, "dropped")
        assert limit.limit > 100

    def test_unused_limit_does_not_grow(self) -> None:
        limit = make_gradient(100)
        feed(limit, 60, elapsed_s=0.02, in_flight=10)
        assert limit.limit == 100

    def test_ignored_samples_change_nothing(self) -> None:
        limit = make_gradient(100)
        feed(limit, 60, elapsed_s=9, in_flight=100, outcome="ignore")
        assert limit.limit == 100

    def test_probe_cuts_the_limit_below_the_minimum_for_a_moment(self) -> None:
        limit = make_gradient(8, minimum=8, maximum=8)
        seen = set()
        now = 0.0
        for _ in range(500):
            now += 0.01
            limit.sample(now, 0.005, 8, "success")
            seen.add(limit.limit)
        assert seen == {2, 8}
        assert limit.limit == 8

    @pytest.mark.parametrize("outcome", ["ignore", "dropped"])
    def test_probe_without_answers_ends(self, outcome: LimitSignal) -> None:
        limit = make_gradient(64)
        now = 0.0
        while limit.limit >= 64:
            now += 0.01
            limit.sample(now, 0.05, 64, "success")
        now = feed(limit, 1, elapsed_s=0.5, in_flight=21, outcome=outcome, now=now)
        assert limit.limit == 21
        limit.sample(now + 1, 0.5, 21, outcome)
        assert limit.limit >= 64

    def test_exchanges_begun_before_the_probe_do_not_count_in_it(self) -> None:
        limit = make_gradient(64)
        now = 0.0
        while limit.limit >= 64:
            now += 0.01
            limit.sample(now, 0.05, 64, "success")
        for _ in range(100):
            limit.sample(now + 0.01, 0.05, 64, "success")
        assert limit.limit == 21
        for _ in range(25):
            limit.sample(now + 0.1, 0.05, 21, "success")
        assert limit.limit >= 64


class TestAIMD:
    def test_limit_decreases_under_overload_until_few_calls_are_dropped(self) -> None:
        limit = AIMDLimit(128, minimum=4, maximum=512)
        model = overload(limit, timeout_s=0.2)
        model.run(40)
        before = model.dropped
        model.run(60)
        assert (model.dropped - before) / 20 < 0.02 * WORKERS / SERVICE_S
        assert WORKERS <= limit.limit <= 0.2 / SERVICE_S * WORKERS * 1.1

    def test_one_burst_of_drops_decreases_once(self) -> None:
        limit = AIMDLimit(100, minimum=4, maximum=512)
        for _ in range(50):
            limit.sample(10.0, 1.0, 100, "dropped")
        assert limit.limit == 90
        limit.sample(11.5, 1.0, 100, "dropped")
        assert limit.limit == 81

    def test_limit_grows_by_one_for_each_limits_worth_of_successes(self) -> None:
        limit = AIMDLimit(10, minimum=4, maximum=512)
        for _ in range(11):
            limit.sample(1.0, 0.1, 10, "success")
        assert limit.limit == 11

    def test_unused_limit_does_not_grow(self) -> None:
        limit = AIMDLimit(10, minimum=4, maximum=512)
        feed(limit, 10, elapsed_s=0.1, in_flight=4)
        assert limit.limit == 10

    def test_ignored_samples_change_nothing(self) -> None:
        limit = AIMDLimit(10, minimum=4, maximum=512)
        feed(limit, 10, elapsed_s=0.1, in_flight=10, outcome="ignore")
        assert limit.limit == 10


samples = st.lists(
    st.tuples(st.floats(0, 5), st.floats(0, 60), st.integers(1, 400), st.sampled_from(["success", "ignore", "dropped"])), max_size=200
)


@given(samples)
def test_gradient_stays_within_its_bounds_for_any_samples(told: list[tuple[float, float, int, LimitSignal]]) -> None:
    limit = make_gradient(20, minimum=10, maximum=100)
    now = 0.0
    for step_s, elapsed_s, in_flight, outcome in told:
        now += step_s
        limit.sample(now, elapsed_s, in_flight, outcome)
        assert 5 <= limit.limit <= 100


@given(samples)
def test_aimd_stays_within_its_bounds_for_any_samples(told: list[tuple[float, float, int, LimitSignal]]) -> None:
    limit = AIMDLimit(20, minimum=10, maximum=100)
    now = 0.0
    for step_s, elapsed_s, in_flight, outcome in told:
        now += step_s
        limit.sample(now, elapsed_s, in_flight, outcome)
        assert 10 <= limit.limit <= 100


@pytest.mark.parametrize("make", [lambda: make_gradient(20), lambda: AIMDLimit(20, minimum=4, maximum=512)])
def test_limit_recovers_after_an_outage(make: "type[Limit]") -> None:
    limit = make()
    now = feed(limit, 60, elapsed_s=0.5, in_flight=20, outcome="dropped")
    assert limit.limit == 4
    for _ in range(30):
        now = feed(limit, 1, elapsed_s=0.02, in_flight=limit.limit, now=now)
    assert limit.limit > 20
