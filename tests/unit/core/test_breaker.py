from typing import cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from anabranch.core.breaker import Breaker, Judgement, Permit, State

OPEN_FOR_S = 5.0
PROBES = 3
MINIMUM = 4


def make_breaker(
    *, failure_rate: float = 0.5, minimum_calls: int = MINIMUM, slow_after_s: float | None = None, slow_rate: float = 1.0
) -> Breaker:
    return Breaker(
        window_s=10,
        failure_rate=failure_rate,
        minimum_calls=minimum_calls,
        open_for_s=OPEN_FOR_S,
        probes=PROBES,
        slow_after_s=slow_after_s,
        slow_rate=slow_rate,
    )


def run(breaker: Breaker, now: float, *outcomes: Judgement, elapsed_s: float = 0.01) -> None:
    for outcome in outcomes:
        breaker.record(now, take(breaker, now), outcome, elapsed_s)


def take(breaker: Breaker, now: float) -> Permit:
    permit = breaker.allow(now)
    assert permit is not None
    return permit


def fail(breaker: Breaker, now: float, times: int = MINIMUM) -> None:
    for _ in range(times):
        run(breaker, now, "failure")


def state_of(breaker: Breaker) -> State:
    """The current state. A function, because mypy would otherwise keep the type narrowed by an earlier assertion."""
    return breaker.state


def opened(now: float = 0.0) -> Breaker:
    breaker = make_breaker()
    fail(breaker, now)
    assert state_of(breaker) == "open"
    return breaker


def test_breaker_opens_at_the_failure_rate() -> None:
    breaker = make_breaker()
    run(breaker, 0, "success", "success", "failure")
    assert state_of(breaker) == "closed"
    run(breaker, 0, "failure")
    assert state_of(breaker) == "open"


def test_breaker_stays_closed_below_the_minimum_of_calls() -> None:
    breaker = make_breaker()
    fail(breaker, 0, MINIMUM - 1)
    assert state_of(breaker) == "closed"


def test_success_that_reaches_the_minimum_of_calls_can_open_it() -> None:
    breaker = make_breaker()
    run(breaker, 0, "failure", "failure", "failure", "success")
    assert state_of(breaker) == "open"


def test_failures_older_than_the_window_do_not_open_it() -> None:
    breaker = make_breaker()
    run(breaker, 0, "failure", "failure", "failure")
    run(breaker, 11, "failure", "success", "success")
    assert state_of(breaker) == "closed"


def test_ignored_calls_count_for_nothing() -> None:
    breaker = make_breaker()
    for _ in range(50):
        run(breaker, 0, "ignore")
    fail(breaker, 0, MINIMUM - 1)
    assert state_of(breaker) == "closed"


def test_breaker_opens_at_the_slow_rate() -> None:
    breaker = make_breaker(slow_after_s=1.0, slow_rate=0.5)
    run(breaker, 0, "success", "success", elapsed_s=1.0)
    run(breaker, 0, "success", "success", elapsed_s=1.1)
    assert state_of(breaker) == "open"


def test_no_call_counts_as_slow_unless_configured() -> None:
    breaker = make_breaker()
    for _ in range(20):
        run(breaker, 0, "success", elapsed_s=1000)
    assert state_of(breaker) == "closed"


def test_rate_of_zero_opens_at_the_first_failure_and_not_before() -> None:
    breaker = make_breaker(failure_rate=0.0, minimum_calls=1)
    run(breaker, 0, "success", "success")
    assert state_of(breaker) == "closed"
    run(breaker, 0, "failure")
    assert state_of(breaker) == "open"


def test_open_breaker_reports_when_to_retry() -> None:
    breaker = opened()
    assert breaker.allow(2.0) is None
    assert breaker.retry_after_s(2.0) == 3.0
    assert not breaker.would_allow(4.99)
    assert breaker.would_allow(5.0)
    assert breaker.retry_after_s(5.0) == 0.0


def test_half_open_breaker_allows_no_more_than_its_probes() -> None:
    breaker = opened()
    permits = [breaker.allow(5.0) for _ in range(10)]
    assert sum(permit is not None for permit in permits) == PROBES
    assert state_of(breaker) == "half_open"
    assert breaker.retry_after_s(6.0) == 4.0


def test_breaker_closes_with_an_empty_window_when_all_probes_succeed() -> None:
    breaker = opened()
    for permit in [take(breaker, 5.0) for _ in range(PROBES)]:
        assert state_of(breaker) == "half_open"
        breaker.record(5.1, permit, "success", 0.1)
    assert state_of(breaker) == "closed"
    run(breaker, 5.2, "failure", "success", "success", "success")
    assert state_of(breaker) == "closed"


def test_one_failed_probe_opens_it_again_for_the_full_duration() -> None:
    breaker = opened()
    run(breaker, 6.0, "success", "failure")
    assert state_of(breaker) == "open"
    assert breaker.retry_after_s(6.0) == OPEN_FOR_S


def test_slow_probe_opens_it_again() -> None:
    breaker = make_breaker(slow_after_s=1.0)
    fail(breaker, 0)
    run(breaker, 6.0, "success", elapsed_s=1.5)
    assert state_of(breaker) == "open"


def test_cancelled_probe_gives_its_permit_back() -> None:
    breaker = opened()
    permits = [take(breaker, 5.0) for _ in range(PROBES)]
    assert breaker.allow(5.1) is None
    breaker.record(5.1, permits[0], "ignore", 0.1)
    assert state_of(breaker) == "half_open"
    assert breaker.allow(5.1) is not None
    assert breaker.allow(5.1) is None


def test_slot_of_a_probe_that_never_reports_is_freed() -> None:
    breaker = opened()
    for _ in range(PROBES):
        take(breaker, 5.0)
    assert breaker.allow(9.9) is None
    run(breaker, 10.0, "success", "success", "success")
    assert state_of(breaker) == "closed"


def test_late_report_of_a_probe_counts() -> None:
    breaker = opened()
    late = take(breaker, 5.0)
    run(breaker, 30.0, "success", "success")
    breaker.record(31.0, late, "success", 26.0)
    assert state_of(breaker) == "closed"


@pytest.mark.parametrize("outcome", ["success", "failure", "ignore"])
def test_result_of_a_call_begun_before_it_opened_is_ignored(outcome: Judgement) -> None:
    breaker = make_breaker()
    early = take(breaker, 0)
    fail(breaker, 0)
    take(breaker, 5.0)
    generation = breaker.generation
    breaker.record(6.0, early, outcome, 6.0)
    assert (breaker.state, breaker.generation) == ("half_open", generation)
    run(breaker, 6.0, "success", "success")
    assert state_of(breaker) == "half_open"


class BreakerMachine(RuleBasedStateMachine):
    """Any order of calls, results and waiting. The model: outstanding permits, with the time at which they were issued."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.breaker = make_breaker(slow_after_s=2.0)
        self.out: list[tuple[Permit, float, str]] = []
        self.counted: list[float] = []
        self.seen = (self.breaker.state, self.breaker.generation)

    @rule(seconds=st.floats(0, 8))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def allow(self) -> None:
        before = self.breaker.state
        expected = self.breaker.would_allow(self.now)
        retry_after_s = self.breaker.retry_after_s(self.now)
        permit = self.breaker.allow(self.now)
        assert (permit is not None) == expected == (retry_after_s == 0)
        if before == "closed":
            assert permit is not None
        if before == "open" and permit is None:
            assert self.breaker.state == "open"
        if permit is not None:
            self.out.append((permit, self.now, self.breaker.state))

    @precondition(lambda self: self.out)
    @rule(data=st.data(), outcome=st.sampled_from(["success", "failure", "ignore"]))
    def record(self, data: st.DataObject, outcome: str) -> None:
        permit, began, _ = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        before, generation = self.breaker.state, self.breaker.generation
        is_stale = permit.generation != generation
        self.breaker.record(self.now, permit, cast("Judgement", outcome), self.now - began)
        if is_stale or outcome == "ignore":
            assert (self.breaker.state, self.breaker.generation) == (before, generation)
            return
        if before == "closed":
            self.counted.append(self.now)
            if self.breaker.state == "open":
                assert len([time for time in self.counted if time > self.now - 10.001]) >= MINIMUM
        if before == "half_open" and outcome == "failure":
            assert self.breaker.state == "open"
        if self.breaker.state == "closed" and before != "closed":
            self.counted.clear()

    @invariant()
    def never_more_probes_than_permitted(self) -> None:
        recent = [
            permit
            for permit, began, state in self.out
            if state == "half_open" and permit.generation == self.breaker.generation and self.now < began + OPEN_FOR_S
        ]
        assert len(recent) <= PROBES

    @invariant()
    def a_probe_is_let_through_in_the_end(self) -> None:
        wait_s = self.breaker.retry_after_s(self.now)
        assert 0 <= wait_s <= OPEN_FOR_S + 1e-6
        assert self.breaker.would_allow(self.now + OPEN_FOR_S + 1e-6)

    @invariant()
    def generation_grows_with_every_move(self) -> None:
        state, generation = self.seen
        assert (self.breaker.state == state) if self.breaker.generation == generation else (self.breaker.generation > generation)
        self.seen = (self.breaker.state, self.breaker.generation)


BreakerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBreakerMachine = BreakerMachine.TestCase
