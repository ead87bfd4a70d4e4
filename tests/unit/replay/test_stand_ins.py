"""Replays requests in which steps stood in for others, raced, or were repeated."""

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from anabranch.journal.record import Record, Step
from tests.support.recorded import answered, failed, recorded
from tests.unit.replay.test_replay import plan_of, replayed

ONE = {"upstream": "a", "path": "/one"}
TWO = {"upstream": "b", "path": "/two"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    steps: dict[str, Any]
    record: Record


def by(step: Step, name: str) -> Step:
    return msgspec.structs.replace(step, answered_by=name)


RACED = Step("x", answered_by="two", elapsed_ms=5.0)
CASES = {
    "a fallback answers again": Case(
        steps={"one": {**ONE, "fallback": "two"}, "two": TWO},
        record=recorded("/x/7", b'{"one":2}', [by(failed("one", "a", "/one", "timeout"), "two"), answered("two", "b", "/two", b"2")]),
    ),
    "a failed answer is kept": Case(
        steps={"one": {**ONE, "fallback": "two"}, "two": TWO},
        record=recorded(
            "/x/7",
            b'{"one":2}',
            [by(answered("one", "a", "/one", b"<html>", status=500, failure="upstream_status"), "two"), answered("two", "b", "/two", b"2")],
        ),
    ),
    "the recorded winner wins, and the one that was cancelled is no new call": Case(
        steps={"x": {"any": ["one", "two"]}, "one": ONE, "two": TWO},
        record=recorded("/x/7", b'{"x":2}', [RACED, answered("two", "b", "/two", b"2", elapsed_ms=4.0)]),
    ),
    "a member that had failed before fails again": Case(
        steps={"x": {"any": ["one", "two"]}, "one": ONE, "two": TWO},
        record=recorded(
            "/x/7", b'{"x":2}', [RACED, failed("one", "a", "/one", "timeout"), answered("two", "b", "/two", b"2", elapsed_ms=4.0)]
        ),
    ),
    "a repetition is given its last answer": Case(
        steps={"one": {**ONE, "until": "{value.n} > 2"}},
        record=recorded("/x/7", b'{"one":{"n":3}}', [answered("one", "a", "/one", b'{"n":3}')]),
    ),
    "a repetition that had no end ends at once": Case(
        steps={"one": {**ONE, "until": "{value.n} > 2"}, "two": TWO},
        record=recorded(
            "/x/7",
            b'{"one":null,"two":2}',
            [answered("one", "a", "/one", b'{"n":1}', failure="timeout"), answered("two", "b", "/two", b"2")],
            complete=False,
        ),
    ),
    "an answer that was refused inside the policies is refused again": Case(
        steps={"one": {**ONE, "expect": "{value.n} > 2", "counts_as_failure": True}, "two": TWO},
        record=recorded(
            "/x/7",
            b'{"one":null,"two":2}',
            [answered("one", "a", "/one", b'{"n":1}', failure="unexpected_answer"), answered("two", "b", "/two", b"2")],
            complete=False,
        ),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
async def test_the_answer_is_the_recorded_one(case: Case) -> None:
    report = await replayed(plan_of({"steps": case.steps}), case.record)
    assert (report.same, report.different, report.new_calls) == (1, 0, {}), report
