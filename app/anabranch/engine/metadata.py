"""What others refer to of a step itself, and not of its value: `{step.$status}` and the like."""

from typing import Any

from anabranch.engine.outcome import Outcome
from anabranch.jsontext.frame import MISSING, Frame
from anabranch.plan.judge import JudgePlan
from anabranch.plan.model import StepPlan
from anabranch.plan.reference import LINES


def fill(step: StepPlan | JudgePlan, outcome: Outcome, frame: Frame) -> None:
    """Fill the slots of `step.metadata` from what is known of the step."""
    for what, name, slot in step.metadata:
        frame[slot] = _value(what, name, outcome.answered)


def _value(what: str, name: str, outcome: Outcome) -> Any:
    if what == "ok":
        return outcome.raw is not None
    if what == "code":
        return None if outcome.failure is None or outcome.raw is not None else outcome.failure.code
    if what == "status":
        return MISSING if outcome.status is None else b"%d" % outcome.status
    wanted = name.encode()
    values = [value for key, value in outcome.headers or () if key == wanted]
    if what == LINES:
        return values
    return _text(values[0]) if values else MISSING


def _text(value: bytes) -> str:
    """A header value is UTF-8 today and was Latin-1 once (RFC 9110 section 5.5)."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
