"""What a response shows of failed steps, for clients that cannot read header fields (`response.show_failures`)."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final

from msgspec import Raw

from anabranch.engine.outcome import Outcome
from anabranch.errors import StepError
from anabranch.jsontext import raw
from anabranch.jsontext.merge import ABSENT
from anabranch.jsontext.proof import BOM, is_proven
from anabranch.plan.model import FailuresRule
from anabranch.plan.names import Numbers

_MOST_ENTRIES: Final = 100
_MOST_JSON_BYTES: Final = 64 * 1024
_MOST_CHARACTERS: Final = 4096
_LONGEST_CHARACTER_BYTES: Final = 4


def shown(rule: FailuresRule, outcomes: Sequence[Outcome | None], numbers: Numbers | None) -> bytes:
    """The failed steps, in document order, at most 100; `ABSENT` when there is none. `numbers`: in place of names; None: the names."""
    found = (pair for outcome in outcomes if outcome is not None and not outcome.is_excused for pair in _failures(outcome))
    entries = [_entry(outcome, failure, numbers) for outcome, failure in islice(found, _MOST_ENTRIES)]
    return b"".join((rule.before, raw.encode(entries), rule.after)) if entries else ABSENT


def _failures(outcome: Outcome) -> Iterator[tuple[Outcome, StepError]]:
    """The failure of a step; of one that ran for elements, that of each run, with the outcome that tells of its answer."""
    if outcome.failure is not None:
        yield outcome, outcome.failure
        return
    runs = {id(run.failure): run for run in outcome.calls}
    for failure in {id(failure): failure for failure in outcome.item_failures}.values():
        yield runs.get(id(failure), Outcome(outcome.step, outcome.upstream)), failure


def _entry(outcome: Outcome, failure: StepError, numbers: Numbers | None) -> dict[str, Any]:
    return {
        "step": outcome.step if numbers is None else numbers.steps[outcome.step],
        "code": failure.code,
        "status": outcome.status,
        "body": None if outcome.answer is None else _body(outcome.answer.body),
    }


def _body(body: bytes) -> Raw | str | None:
    """What a service sent: JSON as it is, anything else or too much as the beginning of its text; None when it sent nothing."""
    body = body.removeprefix(BOM)
    if not body:
        return None
    if len(body) <= _MOST_JSON_BYTES and is_proven(body):
        return Raw(body)
    return body[: _MOST_CHARACTERS * _LONGEST_CHARACTER_BYTES].decode(errors="replace")[:_MOST_CHARACTERS]
