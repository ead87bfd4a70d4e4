from collections import deque

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from anabranch.core.budget import Budget


def test_quiet_upstream_may_spend_the_floor() -> None:
    budget = Budget(0.1, floor=3)
    assert [budget.try_spend(0.0) for _ in range(5)] == [True, True, True, False, False]


def test_share_of_calls_is_added_to_the_floor() -> None:
    budget = Budget(0.1, floor=0)
    for _ in range(9):
        budget.record(0.0)
    assert not budget.try_spend(0.0)
    budget.record(0.0)
    assert budget.try_spend(0.0)
    assert not budget.try_spend(0.0)


def test_calls_outside_the_window_do_not_count() -> None:
    budget = Budget(0.5, window_s=10, floor=0)
    for _ in range(4):
        budget.record(0.0)
    assert budget.balance(9.9) == 2
    assert budget.balance(10.0) == 0
    budget.record(100.0)
    budget.record(1e9)
    assert budget.balance(1e9) == 0.5


def test_attempts_outside_the_window_do_not_count() -> None:
    budget = Budget(0.0, window_s=10, floor=2)
    assert budget.try_spend(0.5)
    assert budget.try_spend(5.5)
    assert not budget.try_spend(9.5)
    assert budget.try_spend(10.5)
    assert not budget.try_spend(10.5)


@pytest.mark.parametrize("start", [0.0, 0.05, 123456.789, -50.0])
def test_any_start_value_of_the_clock_works(start: float) -> None:
    budget = Budget(1.0, floor=0)
    budget.record(start)
    assert budget.balance(start) == 1


def test_retries_cannot_multiply_an_outage() -> None:
    """100 calls a second that all fail, each trying to retry twice: retries add only a tenth to the calls."""
    budget = Budget(0.1)
    spent = 0
    for tick in range(6000):
        budget.record(tick / 100)
        spent += sum(budget.try_spend(tick / 100) for _ in range(2))
    assert spent <= 6000 * 0.1 + 10 * 7
    assert spent >= 6000 * 0.1 * 0.9


class BudgetMachine(RuleBasedStateMachine):
    """Compares with a model that stores every call and every spent attempt with its time, in the same slices as the budget."""

    @initialize(ratio=st.sampled_from([0.0, 0.05, 0.1, 0.5, 1.0]), floor=st.integers(0, 5), window_s=st.sampled_from([1.0, 10.0]))
    def start(self, ratio: float, floor: int, window_s: float) -> None:
        self.budget = Budget(ratio, window_s=window_s, floor=floor)
        self.ratio, self.floor, self.window_s = ratio, floor, window_s
        self.now = 50.0
        self.calls: deque[float] = deque()
        self.spent: deque[float] = deque()

    @rule(seconds=st.one_of(st.floats(0, 0.5), st.floats(0, 30)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(count=st.integers(1, 20))
    def calls_come(self, count: int) -> None:
        for _ in range(count):
            self.budget.record(self.now)
            self.calls.append(self.now)

    @rule()
    def spend(self) -> None:
        recent = self.in_last(self.calls, self.window_s), self.in_last(self.spent, self.window_s)
        surely = self.in_last(self.calls, 0.9 * self.window_s), self.in_last(self.spent, 0.9 * self.window_s)
        is_allowed = self.budget.try_spend(self.now)
        if is_allowed:
            assert surely[1] + 1 <= self.floor + self.ratio * recent[0] + 1e-9
            self.spent.append(self.now)
        else:
            assert recent[1] + 1 > self.floor + self.ratio * surely[0] - 1e-9

    @invariant()
    def balance_is_not_negative(self) -> None:
        if hasattr(self, "budget"):
            assert self.budget.balance(self.now) >= 0

    def in_last(self, times: deque[float], seconds: float) -> int:
        return sum(time > self.now - seconds for time in times)


TestBudget = BudgetMachine.TestCase


def test_a_share_of_zero_allows_nothing() -> None:
    budget = Budget.of_share(0.0)
    budget.record(0.0)
    assert not budget.try_spend(0.0)
