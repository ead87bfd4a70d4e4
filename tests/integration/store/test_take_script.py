"""The script that takes units inside the server, against the pure algorithm: the same decisions and the same numbers, to the last bit."""

from itertools import count

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from anabranch.core.rate import Rate, all_allowed, kept_s, look
from anabranch.store.scripts import TAKE
from tests.support.valkey import ValkeyServer

_PREFIXES = count()
_START = 1_800_000_000.0
# The server's own clock expires the keys: what the next step needs has to outlive this test's steps.
_KEPT_S = 20.0

rates = st.builds(
    lambda number, interval_s, capacity, is_quota: Rate(
        number, number * interval_s, float(int(number)) if is_quota else capacity, is_quota=is_quota
    ),
    st.floats(1, 50),
    st.floats(100, 1e6),
    st.floats(1, 60),
    st.booleans(),
)
steps = st.tuples(st.one_of(st.just(0.0), st.floats(0, 5e4)), st.one_of(st.integers(0, 60), st.floats(0.25, 60)))


class Model:
    """What `core.rate` decides, and the states that it would keep."""

    def __init__(self, buckets: list[Rate]) -> None:
        self.buckets = buckets
        self.kept = [(0.0, 0.0)] * len(buckets)

    def states(self, now: float) -> list[float]:
        return [0.0 if until <= now else state for state, until in self.kept]

    def take(self, now: float, cost: float) -> None:
        found = [look(rate, state, now, cost) for rate, state in zip(self.buckets, self.states(now), strict=True)]
        if all_allowed([verdict for verdict, _ in found]):
            self.kept = [(after, now + kept_s(rate, after, now)) for rate, (_, after) in zip(self.buckets, found, strict=True)]
            assume(all(until - now > _KEPT_S or until <= now for _, until in self.kept))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much])
@given(st.lists(rates, min_size=1, max_size=3), st.lists(steps, min_size=1, max_size=12))
def test_the_script_decides_and_counts_as_the_pure_algorithm(
    valkey: ValkeyServer, buckets: list[Rate], taken: list[tuple[float, float]]
) -> None:
    prefix, model, now = next(_PREFIXES), Model(buckets), _START
    keys = [f"take{prefix}:{index}" for index in range(len(buckets))]
    arguments = [text for rate in buckets for text in (repr(rate.count), repr(rate.period_s), repr(rate.capacity), str(int(rate.is_quota)))]
    for elapsed_s, cost in taken:
        now += elapsed_s
        at, *states = valkey.call("EVAL", TAKE.text, len(keys), *keys, repr(cost), repr(now), *arguments)
        assert float(at) == now
        live = [0.0 if not rate.is_quota and float(state) <= now else float(state) for rate, state in zip(buckets, states, strict=True)]
        assert live == model.states(now)
        model.take(now, cost)


def test_a_quota_ends_with_its_window_even_if_its_key_is_still_there(valkey: ValkeyServer) -> None:
    key = f"take{next(_PREFIXES)}"

    def taken(now: float) -> float:
        return float(valkey.call("EVAL", TAKE.text, 1, key, "2", repr(now), "3", "100.0", "3", "1")[1])

    assert taken(_START) == 0
    assert taken(_START + 99.9999) == 2
    assert taken(_START + 100) == 0
    assert taken(_START + 100) == 2


def test_what_is_given_back_can_be_taken_again(valkey: ValkeyServer) -> None:
    keys = [f"take{next(_PREFIXES)}", f"take{next(_PREFIXES)}"]

    def take(cost: str, now: float = _START) -> list[float]:
        return [
            float(state)
            for state in valkey.call("EVAL", TAKE.text, 2, *keys, cost, repr(now), "3", "300", "3", "0", "3", "300", "3", "1")[1:]
        ]

    take("2")
    take("-1.0")
    assert take("2") == [_START + 100, 1]
    assert take("1") == [_START + 300, 3], "nothing is left"
    take("-3.0")
    assert take("0") == [0, 0]
    take("-3.0")
    assert take("0") == [0, 0], "never more than a full bucket"


def test_what_another_kind_of_limit_had_stored_counts_as_nothing(valkey: ValkeyServer) -> None:
    key = f"take{next(_PREFIXES)}"
    for is_quota in ("0", "1", "0"):
        assert float(valkey.call("EVAL", TAKE.text, 1, key, "1", repr(_START), "3", "300", "3", is_quota)[1]) == 0


def test_the_clock_is_the_servers_when_no_time_is_given(valkey: ValkeyServer) -> None:
    seconds, micros = valkey.call("TIME")
    assert 0 <= float(valkey.call("EVAL", TAKE.text, 0, "0", "")[0]) - (int(seconds) + int(micros) / 1e6) < 10
