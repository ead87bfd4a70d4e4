from hypothesis import given
from hypothesis import strategies as st

from anabranch.core.rate import Rate, Verdict, given_back, look

_EPSILON = 1e-6


@given(
    st.integers(1, 50), st.floats(0.1, 100), st.integers(1, 20),
    st.lists(st.tuples(st.floats(0, 5), st.integers(1, 5)), max_size=60), st.floats(0, 2e9),
)  # fmt: skip
def test_rate_never_admits_more_than_its_capacity_and_what_comes_back_in_any_window(
    count: int, period_s: float, capacity: int, asked: list[tuple[float, int]], now: float
) -> None:
    rate = Rate(count, period_s, capacity)
    state = 0.0
    admitted: list[tuple[float, int]] = []
    for pause_s, cost in asked:
        now += pause_s
        verdict, state = look(rate, state, now, cost)
        if verdict.is_allowed:
            admitted.append((now, cost))
        elif cost <= capacity:
            again, _ = look(rate, state, now + verdict.retry_after_s + _EPSILON, cost)
            assert again.is_allowed, "what the client is told about when to come again holds"
    for index, (begin, _) in enumerate(admitted):
        for end in range(index, len(admitted)):
            taken = sum(cost for _, cost in admitted[index : end + 1])
            allowed = capacity + (admitted[end][0] - begin) * count / period_s
            assert taken <= allowed * (1 + 1e-6) + 1e-3


@given(st.integers(1, 50), st.sampled_from([1.0, 60.0, 86400.0]), st.lists(st.tuples(st.floats(0, 40000), st.integers(1, 9)), max_size=40))
def test_rate_admits_a_client_that_asks_no_more_often_than_it_allows(count: int, period_s: float, asked: list[tuple[float, int]]) -> None:
    rate = Rate(count, period_s, 1)
    state, now = 0.0, 1.7e9
    for pause_s, _ in asked:
        now += period_s / count + pause_s
        verdict, state = look(rate, state, now, 1)
        assert verdict.is_allowed


def test_what_was_given_back_is_there_again() -> None:
    rate = Rate(10, 100, 10)
    before, _ = look(rate, 0.0, 1000, 1)
    verdict, _ = look(rate, 0.0, 1000, 4)
    assert given_back(verdict, rate, 4) == Verdict(True, 10, 0.0, 0.0)
    assert before.remaining == 9
