"""An `allow` that cannot be evaluated, and what the log says of it."""

import logging
from types import SimpleNamespace
from typing import cast

import pytest

from anabranch.engine.request import ClientRequest
from anabranch.errors import ConditionFailed, Forbidden
from anabranch.guard.allow import AllowGuard
from anabranch.guard.tally import Tally
from anabranch.jsontext.frame import Frame


async def test_what_cannot_be_decided_is_refused_and_the_log_has_one_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]

    def undecidable(_: Frame) -> bool:
        raise ConditionFailed("no such overload")

    guard = AllowGuard(undecidable, Tally(lambda: now[0]), reads_body=False)
    request = cast("ClientRequest", SimpleNamespace(frame=[], plan=SimpleNamespace(name="mine")))
    caplog.set_level(logging.WARNING, "anabranch.guard")
    for seconds in (0.0, 1.0, 59.0, 60.0):
        now[0] = seconds
        with pytest.raises(Forbidden):
            await guard(request)
    assert caplog.messages == ["`allow` of endpoint mine cannot be evaluated for some requests, which are refused: no such overload"] * 2
