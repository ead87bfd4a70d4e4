"""Renders the figures: as text for a terminal, as Markdown between the markers of a document, and as JSON."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.measure import Row, Section
from bench.targets import Target
from bench.trial import Trial

JSON = Any
_BUSY_ENOUGH: Final = 0.9
_ROBBED_MUCH: Final = 0.05
_FIGURES: Final[tuple[tuple[str, Callable[[Trial], float], str], ...]] = (
    ("requests/s", lambda trial: trial.requests_per_s, ",.0f"),
    ("CPU us/request", lambda trial: trial.cpu_us, ",.0f"),
    ("p50 ms", lambda trial: trial.p50_ms, ",.2f"),
    ("p99 ms", lambda trial: trial.p99_ms, ",.2f"),
    ("p99.9 ms", lambda trial: trial.p999_ms, ",.2f"),
    ("peak MiB", lambda trial: trial.peak_mib, ",.0f"),
)


def table(section: Section) -> list[list[str]]:
    """Header and rows of one workload. In brackets: as a multiple of Anabranch's first row in the same run."""
    extras = _extras(section)
    lines = [["", *(name for name, _, _ in _FIGURES), "busy", "errors", *(name for name, _ in extras)]]
    base = next((row for row in section.rows if row.peer in {"anabranch", "h1"}), None)
    for row in section.rows:
        cells = [_cell(row, base, value, form) for _, value, form in _FIGURES]
        lines.append([row.title, *cells, f"{row.figures.busy:.0%}", _errors(row.figures.errors), *(form(row) for _, form in extras)])
    return lines


def _extras(section: Section) -> list[tuple[str, Callable[[Row], str]]]:
    found: list[tuple[str, Callable[[Row], str]]] = []
    if any(row.saturation is not None for row in section.rows):
        found.append(("saturation/s", lambda row: "" if row.saturation is None else f"{row.saturation:,.0f}"))
    if any(row.extra_calls is not None for row in section.rows):
        found.append(("further calls", lambda row: "" if row.extra_calls is None else f"{row.extra_calls:.1%}"))
    if any(row.start_s is not None for row in section.rows):
        found.append(("start s", lambda row: "" if row.start_s is None else f"{row.start_s:.2f}"))
    return found


def _cell(row: Row, base: Row | None, value: Callable[[Trial], float], form: str) -> str:
    number = value(row.figures)
    if math.isnan(number):
        return "-"
    text = format(number, form)
    if base is None or base is row or not value(base.figures):
        return text
    return f"{text} ({number / value(base.figures):.2g}x)"


def _errors(errors: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in sorted(errors.items())) or "0"


def remarks(section: Section, *, rounds: int, seconds: float) -> list[str]:
    """Remarks needed to interpret the table."""
    found = [f"{rounds} round{'s' * (rounds > 1)} of {seconds:g} s or more, {section.clients:,} connections."]
    idle = [
        row.title
        for row in section.rows
        if section.workload.method in {"closed", "growth"} and row.figures.busy < _BUSY_ENOUGH and row.peer != "upstream"
    ]
    if idle:
        found.append(f"Not busy all the time, so load generator and services limit their requests/s: {', '.join(idle)}.")
    spread = max(((row.spread[1] - row.spread[0]) / row.figures.cpu_us for row in section.rows if row.figures.cpu_us > 0), default=0.0)
    if rounds > 1:
        found.append(f"CPU times of the rounds differ by up to {spread:.0%}.")
    robbed = max((row.figures.robbed for row in section.rows), default=0.0)
    if robbed > _ROBBED_MUCH:
        found.append(f"Other work used the servers' core for up to {robbed:.0%} of the time: the figures are rough.")
    lag = max((row.figures.lag_ms for row in section.rows), default=0.0)
    if lag:
        found.append(f"The load generator itself was up to {lag:.1f} ms late (p99); that is part of the latencies.")
    return found + section.notes


def plain(lines: Sequence[Sequence[str]]) -> str:
    """Aligned columns, for a terminal."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width) for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    head, *rows = lines
    rule = ["---", *(["---:"] * (len(head) - 1))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rows))


def verdicts(targets: Sequence[Target]) -> list[list[str]]:
    """Header and rows of the targets."""
    rows = [[f"{target.workload}: {target.demand}", target.wanted, target.measured, target.verdict] for target in targets]
    return [["", "target", "measured", ""], *rows]


def replace_between(text: str, marker: str, content: str) -> str:
    """Replace the text between `<!-- bench:marker -->` and `<!-- /bench:marker -->`. Raises ValueError without the markers."""
    start, end = f"<!-- bench:{marker} -->", f"<!-- /bench:{marker} -->"
    before, found, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the markers {start} and {end} are missing; put them where the table belongs")
    return f"{before}{start}\n{content}\n{end}{after}"


def write_document(
    file: Path, sections: Mapping[str, Section], targets: Sequence[Target], facts: Mapping[str, str], *, rounds: int, seconds: float
) -> None:
    """Write the results into `file`; tables of other workloads stay unchanged. Raises ValueError when a marker is missing."""
    text = file.read_text()
    for key, section in sections.items():
        said = " ".join(remarks(section, rounds=rounds, seconds=seconds))
        text = replace_between(text, key, f"{markdown(table(section))}\n\nMeasured {facts['date']}. {said}")
    text = replace_between(text, "machine", markdown([["", ""], *([name, value] for name, value in facts.items())]))
    text = replace_between(text, "targets", markdown(verdicts(targets)))
    file.write_text(text)


def write_json(file: Path, sections: Mapping[str, Section], targets: Sequence[Target], facts: Mapping[str, str]) -> None:
    """Write everything as machine-readable JSON."""
    workloads = {
        key: {
            "title": section.workload.title,
            "clients": section.clients,
            "rows": [asdict(row) | {"figures": msgspec.to_builtins(row.figures)} for row in section.rows],
            "notes": section.notes,
        }
        for key, section in sections.items()
    }
    judged = [asdict(target) | {"is_met": target.is_met, "verdict": target.verdict} for target in targets]
    content = msgspec.json.encode({"facts": dict(facts), "workloads": workloads, "targets": judged})
    file.write_bytes(msgspec.json.format(content, indent=2))
