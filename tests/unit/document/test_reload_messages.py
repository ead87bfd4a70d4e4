"""What a failed reload logs, and how often."""

import logging

import pytest

from anabranch.config.model import Document
from anabranch.document.reload import Reloader
from anabranch.document.service import Service
from anabranch.errors import ConfigError, Problem
from anabranch.plan.model import DocumentPlan


def problem(message: str) -> Problem:
    return Problem(file="gateway.yaml", line=1, column=1, path="document", message=message)


async def test_repeated_problems_are_logged_once_for_file_watching(caplog: pytest.LogCaptureFixture) -> None:
    found = [problem("first")]

    def prepare() -> Service:
        raise ConfigError(list(found))

    def swap(service: Service) -> None:
        raise AssertionError("nothing is to be put in force")

    first = Service(DocumentPlan(endpoints=(), source=Document(version=1)))
    caplog.set_level(logging.ERROR, "anabranch.reload")
    async with Reloader(first, prepare=prepare, swap=swap, linger_s=0.0) as reloader:  # type: ignore[arg-type]
        told = []
        for trigger in ("watch", "watch", "signal", "watch"):
            caplog.clear()
            await reloader.reload(trigger)
            told.append(len(caplog.records))
        assert told == [2, 0, 2, 0]
        found[:] = [problem("second")]
        caplog.clear()
        await reloader.reload("watch")
        assert caplog.records[0].getMessage() == "gateway.yaml:1:1: document: second"
        assert reloader.state.failed == 5
