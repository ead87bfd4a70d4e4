"""What a response shows of failed steps, for clients that cannot read header fields (`response.show_failures`)."""

from collections.abc import Sequence
from typing import Any, Final

from msgspec import Raw

from anabranch.engine.outcome import Outcome
from anabranch.jsontext import raw
from anabranch.jsontext.merge import ABSENT
from anabranch.jsontext.proof import BOM, is_proven
from anabranch.plan.model import FailuresRule
from anabranch.plan.names import Numbers

_MOST_JSON_BYTES: Final = 64 * 1024
_MOST_CHARACTERS: Final = 4096
_LONGEST_CHARACTER_BYTES: Final = 4


def shown(rule: FailuresRule, outcomes: Sequence[Outcome | None], numbers: Numbers | None) -> bytes:
    """The failed steps, in document order; `ABSENT` when there is none. `numbers`: in place of names; None: the names."""
    entries = [_entry(outcome, numbers) for outcome in outcomes if outcome is not None and outcome.failure is not None]
    return b"".join((rule.before, raw.encode(entries), rule.after)) if entries else ABSENT


def _entry(outcome: Outcome, numbers: Numbers | None) -> dict[str, Any]:
    failure = outcome.failure
    assert failure is not None
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
