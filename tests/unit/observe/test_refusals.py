from typing import Any

import pytest

from anabranch.engine.event import Refusal
from anabranch.errors import MalformedRequest, RefusedRequest
from anabranch.observe.refusals import PAUSE_S, Refusals


class Events:
    """Collects log events."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def warning(self, event: str, **fields: Any) -> None:
        self.told.append({"event": event, **fields})


def refusal(code: str = "malformed_request", client: tuple[str, int] | None = ("10.0.0.7", 51234)) -> Refusal:
    return Refusal(code, 400, "not a valid HTTP/1.1 request", "r-1", client)


@pytest.fixture
def clock() -> list[float]:
    return [100.0]


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def refusals(events: Events, clock: list[float]) -> Refusals:
    return Refusals(events, lambda: clock[0])  # type: ignore[arg-type]


def test_first_rejection_is_logged_with_the_client(refusals: Refusals, events: Events) -> None:
    refusals(refusal())
    assert events.told == [
        {
            "event": "refused", "code": "malformed_request", "status": 400, "detail": "not a valid HTTP/1.1 request", "client": "10.0.0.7:51234",
            "left_out": 0, "request_id": "r-1",
        }
    ]  # fmt: skip


def test_flood_of_rejections_is_counted_and_logged_periodically(refusals: Refusals, events: Events, clock: list[float]) -> None:
    for _ in range(1000):
        refusals(refusal())
        clock[0] += PAUSE_S / 1001
    assert len(events.told) == 1
    clock[0] += PAUSE_S
    refusals(refusal())
    assert [event["left_out"] for event in events.told] == [0, 999]
    assert refusals.counts["malformed_request"] == 1001


def test_each_reason_is_logged_separately(refusals: Refusals, events: Events) -> None:
    for code in ("malformed_request", "head_timeout", "head_too_large", "head_timeout"):
        refusals(refusal(code))
    assert [event["code"] for event in events.told] == ["malformed_request", "head_timeout", "head_too_large"]


def test_every_kind_of_client_address_can_be_logged(refusals: Refusals, events: Events, clock: list[float]) -> None:
    for client in (("::1", 80), None):
        refusals(refusal(client=client))
        clock[0] += PAUSE_S
    assert [event["client"] for event in events.told] == ["[::1]:80", None]


def test_rejections_are_counted_without_a_log() -> None:
    refusals = Refusals(None)
    refusals(refusal())
    assert refusals.counts == {kind.code: int(kind is MalformedRequest) for kind in RefusedRequest.__subclasses__()}
