from collections import Counter
from random import Random

import pytest

from anabranch.core.balance import LeastPending, Load, PeakEWMA, Picker, RandomChoice, RoundRobin, picker_of


def loads(count: int) -> list[Load]:
    return [Load() for _ in range(count)]


def finish(load: Load, now: float, elapsed_s: float, *, is_ok: bool | None = True) -> None:
    load.begin()
    load.end(now, elapsed_s, is_ok=is_ok)


def test_round_robin_takes_each_in_turn() -> None:
    picker, candidates = RoundRobin(), loads(3)
    assert [picker(0, candidates) for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_round_robin_stays_fair_while_candidates_are_left_out() -> None:
    picker, all_of_them = RoundRobin(), loads(3)
    counts: Counter[Load] = Counter()
    for turn in range(300):
        candidates = all_of_them[:2] if turn % 3 == 0 else all_of_them
        counts[candidates[picker(0, candidates)]] += 1
    assert max(counts.values()) - min(counts.values()) <= 2


def test_round_robin_does_not_flood_a_new_address() -> None:
    picker, candidates = RoundRobin(), loads(2)
    for _ in range(100):
        picker(0, candidates)
    candidates.append(Load())
    assert Counter(picker(0, candidates) for _ in range(30)) == {0: 10, 1: 10, 2: 10}


def test_least_pending_picks_the_least_loaded_and_rotates_among_equals() -> None:
    picker, candidates = LeastPending(), loads(3)
    assert [picker(0, candidates) for _ in range(4)] == [0, 1, 2, 0]
    candidates[0].begin()
    candidates[1].begin()
    assert [picker(0, candidates) for _ in range(3)] == [2, 2, 2]
    candidates[2].begin()
    candidates[2].begin()
    assert {picker(0, candidates) for _ in range(2)} == {0, 1}


def test_random_picks_all_about_equally() -> None:
    picker, candidates = RandomChoice(Random(1).random), loads(4)
    counts = Counter(picker(0, candidates) for _ in range(4000))
    assert all(900 < counts[index] < 1100 for index in range(4))


def test_peak_ewma_prefers_the_faster_of_two() -> None:
    picker, candidates = PeakEWMA(Random(1).random), loads(2)
    finish(candidates[0], 1.0, 0.5)
    finish(candidates[1], 1.0, 0.01)
    assert {picker(1.0, candidates) for _ in range(50)} == {1}


def test_peak_ewma_weighs_latency_by_pending_exchanges() -> None:
    picker, candidates = PeakEWMA(Random(1).random), loads(2)
    finish(candidates[0], 1.0, 0.03)
    finish(candidates[1], 1.0, 0.01)
    for _ in range(3):
        candidates[1].begin()
    assert {picker(1.0, candidates) for _ in range(50)} == {0}


def test_peak_ewma_never_picks_the_worst_of_three() -> None:
    picker, candidates = PeakEWMA(Random(1).random), loads(3)
    for load, elapsed_s in zip(candidates, (0.01, 0.02, 0.9), strict=True):
        finish(load, 1.0, elapsed_s)
    counts = Counter(picker(1.0, candidates) for _ in range(600))
    assert counts[2] == 0
    assert counts[0] > counts[1] > 0


def test_peak_ewma_picks_the_only_candidate() -> None:
    assert PeakEWMA(Random(1).random)(0, loads(1)) == 0


def test_peak_latency_counts_at_once_and_decays_slowly() -> None:
    load = Load()
    finish(load, 0.0, 0.01)
    finish(load, 0.0, 1.0)
    assert load.load(0.0) == 1.0
    finish(load, 0.1, 0.01)
    assert load.load(0.1) > 0.9
    for step in range(300):
        finish(load, 0.1 + step / 10, 0.01)
    assert load.load(30.0) < 0.1


def test_unused_slow_address_is_tried_again() -> None:
    slow, fast = Load(), Load()
    finish(slow, 0.0, 2.0)
    for step in range(1000):
        finish(fast, step / 10, 0.01)
    assert slow.load(100.0) < fast.load(100.0)


def test_new_address_is_first_tried_by_a_single_exchange() -> None:
    fresh, known = Load(), Load()
    finish(known, 0.0, 0.01)
    assert fresh.load(0.0) < known.load(0.0)
    fresh.begin()
    assert fresh.load(0.0) > known.load(0.0)


def test_fast_failures_do_not_make_an_address_attractive() -> None:
    failing, working = Load(), Load()
    finish(failing, 0.0, 0.001, is_ok=False)
    finish(working, 0.0, 0.2)
    assert failing.load(0.0) > working.load(0.0)


@pytest.mark.parametrize(("elapsed_s", "expected"), [(0.01, 0.1), (0.7, 0.7)])
def test_cancelled_exchange_counts_only_when_it_was_slower(elapsed_s: float, expected: float) -> None:
    load = Load()
    finish(load, 0.0, 0.1)
    finish(load, 0.0, elapsed_s, is_ok=None)
    assert load.load(0.0) == pytest.approx(expected)
    assert load.pending == 0


@pytest.mark.parametrize(
    ("kind", "picker"), [("round_robin", RoundRobin), ("least_pending", LeastPending), ("random", RandomChoice), ("peak_ewma", PeakEWMA)]
)
def test_pickers_are_found_by_their_document_names(kind: str, picker: type[Picker]) -> None:
    assert isinstance(picker_of(kind, Random(1).random), picker)


def test_unknown_picker_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="use round_robin"):
        picker_of("fastest", Random(1).random)
