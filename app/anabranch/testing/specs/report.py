"""The results of a run, as text, JSON or JUnit XML."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final, Literal
from xml.etree import ElementTree as ET

from anabranch.testing.specs.read import Spec, SpecError
from anabranch.testing.specs.run import CaseFailed, run_spec

Outcome = Literal["passed", "failed", "broken"]
"""`broken`: the case, or its document, cannot be run."""

_WORDS: Final[dict[Outcome, str]] = {"passed": "ok    ", "failed": "FAILED", "broken": "BROKEN"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of one case. `report`: why it did not pass, or ""."""

    file: Path
    line: int
    name: str
    outcome: Outcome
    report: str
    elapsed_s: float


def results(specs: Iterable[Spec]) -> Iterator[Result]:
    """Run the cases one after the other."""
    for spec in specs:
        began = perf_counter()
        outcome, report = _outcome(spec)
        elapsed_s = perf_counter() - began
        yield Result(file=spec.path, line=spec.line, name=spec.case.name, outcome=outcome, report=report, elapsed_s=elapsed_s)


def _outcome(spec: Spec) -> tuple[Outcome, str]:
    try:
        run_spec(spec)
    except CaseFailed as failed:
        return "failed", str(failed)
    except SpecError as error:
        return "broken", str(error)
    return "passed", ""


def as_line(result: Result) -> str:
    """One line for a case."""
    return f"{_WORDS[result.outcome]} {result.file}:{result.line}: {result.name} ({result.elapsed_s * 1000:.0f} ms)"


def as_summary(found: Sequence[Result]) -> str:
    """One line for all cases."""
    counts = {outcome: sum(result.outcome == outcome for result in found) for outcome in _WORDS}
    cases = f"{len(found)} case{'s' * (len(found) != 1)}"
    told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    return f"{cases}: {told} in {sum(result.elapsed_s for result in found):.1f} s"


def as_json(found: Sequence[Result]) -> str:
    """One object: the counts, and a list of the cases."""
    cases = [
        {
            "file": str(result.file),
            "line": result.line,
            "name": result.name,
            "outcome": result.outcome,
            "elapsed_s": round(result.elapsed_s, 3),
            "report": result.report,
        }
        for result in found
    ]
    counts = {outcome: sum(result.outcome == outcome for result in found) for outcome in _WORDS}
    return json.dumps({**counts, "cases": cases}, ensure_ascii=False, indent=2)


def as_junit(found: Sequence[Result]) -> str:
    """A test suite for each file, in the XML that CI servers read. A case that cannot be run is an `error`."""
    root = ET.Element("testsuites")
    for file in dict.fromkeys(result.file for result in found):
        group = [result for result in found if result.file == file]
        suite = ET.SubElement(root, "testsuite", {"name": str(file), **_totals(group)})
        for result in group:
            case = ET.SubElement(
                suite,
                "testcase",
                classname=str(file),
                name=_printable(result.name),
                file=str(file),
                line=str(result.line),
                time=f"{result.elapsed_s:.3f}",
            )
            if result.outcome != "passed":
                kind = "failure" if result.outcome == "failed" else "error"
                ET.SubElement(case, kind, message=_first_fault(result.report)).text = _printable(result.report)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True)


def _totals(group: Sequence[Result]) -> dict[str, str]:
    return {
        "tests": str(len(group)),
        "failures": str(sum(result.outcome == "failed" for result in group)),
        "errors": str(sum(result.outcome == "broken" for result in group)),
        "time": f"{sum(result.elapsed_s for result in group):.3f}",
    }


def _first_fault(report: str) -> str:
    faults = [line.removeprefix("- ") for line in report.splitlines() if line.startswith("- ")]
    return _printable((faults or report.splitlines() or [""])[0])


def _printable(text: str) -> str:
    """The text without the characters that XML 1.0 cannot hold."""
    return "".join(char if char in "\t\n\r" or char.isprintable() else f"\\x{ord(char):02x}" for char in text)
