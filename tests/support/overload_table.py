"""Prints the tables of docs/decisions/0003: limits under a change of capacity, and calls lost to dead addresses.

Run it with `python -m tests.support.overload_table`. It takes about half a minute, and its output is deterministic.
"""

import sys
from collections.abc import Callable
from math import inf
from random import Random
from statistics import median
from typing import Final

from anabranch.core.balance import Load, RoundRobin
from anabranch.core.limit import AIMDLimit, FixedLimit, GradientLimit, Limit, LimitSignal
from anabranch.core.outlier import OutlierDetector, TargetHealth
from tests.support.overload import Overload

START: Final = 128
BOUNDS: Final = {"minimum": 4, "maximum": 512}


class PublishedGradient2:
    """Netflix's Gradient2 by its documented formula and defaults, for comparison. Its windows are 0.1 s, like ours here."""

    def __init__(self) -> None:
        self.limit = START
        self._estimate = float(START)
        self._long_s = 0.0
        self._ends_at = -inf
        self._total_s = 0.0
        self._count = 0

    def sample(self, now: float, elapsed_s: float, in_flight: int, outcome: LimitSignal) -> None:
        self._total_s += elapsed_s
        self._count += 1
        if now < self._ends_at or self._count < 10:
            return
        short_s = self._total_s / self._count
        self._ends_at, self._total_s, self._count = now + 0.1, 0.0, 0
        self._long_s += (short_s - self._long_s) * 2 / 601 if self._long_s else short_s
        if self._long_s > 2 * short_s:
            self._long_s *= 0.9
        if in_flight < self._estimate / 2:
            return
        gradient = max(0.5, min(1.0, 1.5 * self._long_s / short_s))
        self._estimate = min(max(0.8 * self._estimate + 0.2 * (self._estimate * gradient + 4), 4), 512)
        self.limit = int(self._estimate)


def gradient() -> GradientLimit:
    return GradientLimit(START, **BOUNDS, random=Random(3).random)


LIMITS: Final[dict[str, Callable[[], Limit]]] = {
    "fixed at 128": lambda: FixedLimit(START),
    "aimd": lambda: AIMDLimit(START, **BOUNDS),
    "Gradient2 as published": PublishedGradient2,
    "gradient": gradient,
}


def write(line: str = "") -> None:
    sys.stdout.write(line + "\n")


def capacity_table() -> None:
    write("3,000 calls/s; 20 ms of work each; 40 workers, then 10, then 40 again, a minute each; timeout 500 ms.")
    write("Per phase: limit / mean ms of an exchange (last 20 s), answers/s, % timed out (whole phase).")
    write()
    write(f"| limit | {' | '.join(f'{workers} workers' for workers in (40, 10, 40))} |")
    write("| --- | --- | --- | --- |")
    for name, make in LIMITS.items():
        model = Overload(limit=make(), rate=3000, workers=40, service_s=0.02, timeout_s=0.5)
        cells = []
        for end, workers in ((60, 40), (120, 10), (180, 40)):
            model.workers = workers
            answered, dropped, began = model.answered, model.dropped, model.now
            model.run(end)
            answered, dropped = model.answered - answered, model.dropped - dropped
            limit, mean_s = median(model.limits(end - 20, end)), model.mean_s(end - 20, end)
            share = 100 * dropped / (answered + dropped)
            cells.append(f"{limit:.0f} / {mean_s * 1000:.0f} ms, {answered / (end - began):.0f}/s, {share:.0f}%")
        write(f"| {name} | {' | '.join(cells)} |")


def drift_table() -> None:
    write("The same upstream with 10 workers and 750 calls/s for ten minutes: the limit over time.")
    write()
    write("| limit | after 1 min | 3 min | 6 min | 10 min |")
    write("| --- | --- | --- | --- | --- |")
    for name in ("Gradient2 as published", "gradient"):
        model = Overload(limit=LIMITS[name](), rate=750, workers=10, service_s=0.02, timeout_s=2)
        model.run(600)
        write(f"| {name} | {' | '.join(f'{median(model.limits(60 * at - 10, 60 * at)):.0f}' for at in (1, 3, 6, 10))} |")


def ejection_table() -> None:
    write("10,000 calls at 100/s, round robin; some addresses refuse every call: number of failed calls.")
    write()
    write("| addresses | dead | without ejection | with ejection |")
    write("| --- | --- | --- | --- |")
    for size, dead in ((2, 1), (3, 1), (10, 1), (10, 4), (4, 3)):
        write(f"| {size} | {dead} | {failures(size, dead, is_ejecting=False)} | {failures(size, dead, is_ejecting=True)} |")


def failures(size: int, dead: int, *, is_ejecting: bool) -> int:
    """How many of 10,000 calls fail when `dead` of `size` addresses fail."""
    picker, detector = RoundRobin(), OutlierDetector()
    loads, healths = [Load() for _ in range(size)], [TargetHealth() for _ in range(size)]
    failed = 0
    for call in range(10_000):
        now = call / 100
        fit = [index for index in range(size) if not healths[index].is_ejected(now)]
        chosen = fit[picker(now, [loads[index] for index in fit])]
        failed += chosen < dead
        if is_ejecting:
            detector.record(now, healths[chosen], is_failure=chosen < dead, elapsed_s=0.001, everyone=healths)
    return failed


if __name__ == "__main__":
    capacity_table()
    write()
    drift_table()
    write()
    ejection_table()
