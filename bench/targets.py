"""The performance targets, as ratios within one run: met, or missed by how much."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from bench.cases import DELAY_S
from bench.growth import SIZES
from bench.measure import Row, Section

FLAT: Final = 1.1  # up to this multiple of the CPU time with a single endpoint, the CPU time with 10,000 endpoints counts as flat

OURS: Final = frozenset({"anabranch", "hedged"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One target. `workload`: its key, or several. `value`: the measured value, None when a required row is missing. `is_floor`: the value
    must be at least `limit`; else at most. `unit`: appended to both numbers."""

    workload: str
    demand: str
    value: float | None
    limit: float
    is_floor: bool
    unit: str

    @property
    def is_met(self) -> bool | None:
        """Whether the target is met; None when it was not measured."""
        if self.value is None or math.isnan(self.value):
            return None
        return self.value >= self.limit if self.is_floor else self.value <= self.limit

    @property
    def verdict(self) -> str:
        """Met, missed by how much (also as a share of the limit), or not measured."""
        if self.is_met is None or self.value is None:
            return "not measured"
        if self.is_met:
            return "met"
        miss = abs(self.value - self.limit)
        share = f" ({miss / self.limit:.0%})" if self.limit else ""
        return f"missed by {miss:.3g}{self.unit}{share}"

    @property
    def measured(self) -> str:
        """The value with its unit."""
        return "-" if self.value is None else f"{self.value:.3g}{self.unit}"

    @property
    def wanted(self) -> str:
        """The limit with its unit."""
        return f"{'at least' if self.is_floor else 'at most'} {self.limit:g}{self.unit}"


def targets(sections: Mapping[str, Section]) -> list[Target]:
    """All targets of the measured workloads."""
    found: list[Target] = []
    if "A" in sections:
        found += _small(sections["A"])
    for key in ("C", "D"):
        if key in sections:
            found.append(_times(sections[key], "node", 5))
    if "F" in sections:
        found.append(_added(sections["F"]))
    if "G" in sections:
        found += _hedged(sections["G"])
    for key in ("I", "J"):
        if key in sections:
            found.append(_times(sections[key], "node", 1))
    if "H" in sections:
        found.append(_flat(sections["H"]))
    if sections:
        found.append(_right(sections))
    return found


def _cpu(section: Section, peer: str) -> float | None:
    row = section.row(peer)
    return row.figures.cpu_us if row else None


def _ratio(upper: float | None, lower: float | None) -> float | None:
    return upper / lower if upper is not None and lower else None


def _times(section: Section, peer: str, limit: float) -> Target:
    """Requests per CPU second, as a multiple of a peer's."""
    return Target(
        workload=section.workload.key,
        demand=f"requests per CPU second, against {peer}",
        value=_ratio(_cpu(section, peer), _cpu(section, "anabranch")),
        limit=limit,
        is_floor=True,
        unit=" times",
    )


def _small(section: Section) -> list[Target]:
    floor, exchange = _cpu(section, "floor"), _cpu(section, "exchange")
    least = floor + 3 * exchange if floor is not None and exchange is not None else None
    return [
        _times(section, "textbook", 30),
        _times(section, "node", 1.3),
        Target(
            workload="A",
            demand="CPU time, against the floor and three bare exchanges",
            value=_ratio(_cpu(section, "anabranch"), least),
            limit=2.2,
            is_floor=False,
            unit=" times",
        ),
    ]


def _added(section: Section) -> Target:
    row = section.row("anabranch")
    return Target(
        workload="F",
        demand="added at p99 to the 50 ms of the services",
        value=row.figures.p99_ms - DELAY_S * 1e3 if row else None,
        limit=5,
        is_floor=False,
        unit=" ms",
    )


def _hedged(section: Section) -> list[Target]:
    row: Row | None = section.row("hedged")
    return [
        Target(
            workload="G",
            demand="p99.9 with hedging",
            value=row.figures.p999_ms if row else None,
            limit=150,
            is_floor=False,
            unit=" ms",
        ),
        Target(
            workload="G",
            demand="further calls of the slow service with hedging",
            value=row.extra_calls * 100 if row and row.extra_calls is not None else None,
            limit=5,
            is_floor=False,
            unit="%",
        ),
    ]


def _flat(section: Section) -> Target:
    largest = max((size for size in SIZES if section.row(f"h{size}")), default=SIZES[-1])
    return Target(
        workload="H",
        demand=f"CPU time with {largest:,} endpoints, against one",
        value=_ratio(_cpu(section, f"h{largest}"), _cpu(section, f"h{SIZES[0]}")),
        limit=FLAT,
        is_floor=False,
        unit=" times",
    )


def _right(sections: Mapping[str, Section]) -> Target:
    """Every answer of Anabranch must be correct."""
    ours = [row for section in sections.values() for row in section.rows if row.peer in OURS or section.workload.method == "growth"]
    return Target(
        workload=", ".join(sections),
        demand="wrong or missing answers of Anabranch",
        value=float(sum(sum(row.figures.errors.values()) for row in ours)) if ours else None,
        limit=0,
        is_floor=False,
        unit="",
    )
