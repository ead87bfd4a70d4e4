"""What lives as long as a service is opened with it and closed with it."""

import pytest

from anabranch.config.model import Document
from anabranch.document.service import Hiding, Service
from anabranch.plan.model import DocumentPlan

PLAN = DocumentPlan(endpoints=(), source=Document(version=1))


class Log:
    """Counts the documents whose secrets are hidden."""

    def __init__(self) -> None:
        self.hidden = 0

    def hide(self) -> "Log":
        self.hidden += 1
        return self

    def __call__(self) -> None:
        self.hidden -= 1


async def test_secrets_are_hidden_before_the_service_is_open_and_until_it_is_closed() -> None:
    log = Log()
    service = Service(PLAN, hiding=Hiding(log.hide))
    assert log.hidden == 1
    async with service:
        other = Service(PLAN, hiding=Hiding(log.hide))
        async with other:
            assert log.hidden == 2
        assert log.hidden == 1
    assert log.hidden == 0
    async with service:
        assert log.hidden == 1


class _Broken:
    async def __aenter__(self) -> None:
        raise RuntimeError("cannot be opened")

    async def __aexit__(self, *_: object) -> None:
        raise AssertionError("was never open")


async def test_secrets_of_a_service_that_cannot_be_opened_are_not_kept() -> None:
    log = Log()
    service = Service(PLAN, hiding=Hiding(log.hide))
    service.parts += (_Broken(),)
    with pytest.raises(RuntimeError):
        await service.__aenter__()
    assert log.hidden == 0
