"""Which requests wait at the concurrency limit, for how long, and what happens to the others."""

import asyncio

import pytest

from anabranch.guard.concurrency import Gate
from anabranch.server import backlog as module
from anabranch.server.backlog import Backlog


class PendingConnection:
    """Records its calls. `has_request`: whether it uses the slot that it is given."""

    def __init__(self, told: list[str], name: str, *, has_request: bool = True) -> None:
        self._told = told
        self._name = name
        self._has_request = has_request

    def admit(self) -> bool:
        self._told.append(f"{self._name} in")
        return self._has_request

    def reject(self) -> None:
        self._told.append(f"{self._name} away")


def full(*, waiting: int, wait_s: float = 600.0, limit: int = 1) -> tuple[Gate, Backlog]:
    gate = Gate(limit=limit, waiting=waiting, wait_s=wait_s)
    backlog = Backlog(gate)
    assert all(gate.try_enter() for _ in range(limit))
    return gate, backlog


async def until(told: list[str], count: int) -> None:
    async with asyncio.timeout(30):
        while len(told) < count:
            await asyncio.sleep(0.002)


async def test_a_freed_slot_goes_to_the_oldest_waiter() -> None:
    told: list[str] = []
    gate, backlog = full(waiting=3)
    for name in "abc":
        backlog.add(PendingConnection(told, name))
    assert (told, gate.queued) == ([], 3)
    gate.leave()
    gate.leave()
    assert (told, gate.queued, gate.admitted, gate.bulkhead.in_use) == (["a in", "b in"], 1, 2, 1)


async def test_unused_slot_goes_to_the_next_waiter() -> None:
    told: list[str] = []
    gate, backlog = full(waiting=3)
    for name in "ab":
        backlog.add(PendingConnection(told, name, has_request=False))
    backlog.add(PendingConnection(told, "c"))
    gate.leave()
    assert (told, gate.bulkhead.in_use, gate.admitted) == (["a in", "b in", "c in"], 1, 1)
    gate.leave()
    assert gate.bulkhead.in_use == 0


async def test_slot_of_a_cancelled_waiter_goes_to_the_backlog() -> None:
    told: list[str] = []
    gate, backlog = full(waiting=3)
    parsed = asyncio.ensure_future(gate.enter())
    await asyncio.sleep(0)
    backlog.add(PendingConnection(told, "a"))
    gate.leave()  # passes its slot to the parsed request, which is cancelled before it runs
    parsed.cancel()
    await asyncio.wait([parsed])
    assert (told, gate.bulkhead.in_use) == (["a in"], 1)


async def test_parsed_and_unread_requests_get_slots_in_turn() -> None:
    told: list[str] = []
    gate, backlog = full(waiting=4)

    async def enter(name: str) -> None:
        await gate.enter()
        told.append(f"{name} in")

    parsed = [asyncio.ensure_future(enter(name)) for name in ("1", "2", "3")]
    await asyncio.sleep(0)
    backlog.add(PendingConnection(told, "no request", has_request=False))
    for name in "ab":
        backlog.add(PendingConnection(told, name))
    for count in (1, 3, 4, 5, 6):
        gate.leave()
        await until(told, count)
    assert told == ["1 in", "no request in", "a in", "2 in", "b in", "3 in"]
    await asyncio.wait(parsed)
    assert (gate.queued, gate.bulkhead.in_use, gate.admitted) == (0, 1, 5)
    gate.leave()
    assert gate.bulkhead.in_use == 0


async def test_connection_beyond_the_backlog_is_rejected_at_once() -> None:
    told: list[str] = []
    gate, backlog = full(waiting=1)
    for name in "ab":
        backlog.add(PendingConnection(told, name))
    assert (told, gate.shed, gate.queued) == (["b away"], 1, 1)


async def test_wait_ends_with_a_rejection() -> None:
    told: list[str] = []
    gate, backlog = full(waiting=3, wait_s=0.01)
    for name in "ab":
        backlog.add(PendingConnection(told, name))
    await until(told, 2)
    assert (told, gate.shed, gate.queued) == (["a away", "b away"], 2, 0)


async def test_discarded_connection_is_not_called() -> None:
    told: list[str] = []
    gate, backlog = full(waiting=2, wait_s=0.01)
    gone = PendingConnection(told, "gone")
    backlog.add(gone)
    backlog.add(PendingConnection(told, "a"))
    backlog.discard(gone)
    await until(told, 1)
    assert (told, gate.shed) == (["a away"], 1)


async def test_storm_of_rejections_is_slowed_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first rejections of each second are sent at once, the others later, so that those clients cannot retry earlier."""
    monkeypatch.setattr(module, "QUICK_PER_S", 3)
    monkeypatch.setattr(module, "_HOLD_S", 0.05)
    told: list[str] = []
    gate, backlog = full(waiting=0)
    for number in range(200):
        backlog.add(PendingConnection(told, str(number)))
    # Three for each second that started meanwhile.
    assert 3 <= len(told) < 100
    assert gate.shed == 200
    gone = PendingConnection(told, "gone")
    backlog.add(gone)
    backlog.discard(gone)
    await until(told, 200)
    assert sorted(told) == sorted(f"{number} away" for number in range(200))


@pytest.mark.parametrize(
    ("begin", "waits"),
    [
        (b"GET /a HTTP/1.1\r\n", True),
        (b"GET /livez HTTP/1.1\r\n", False),
        (b"HEAD /readyz?verbose HTTP/1.1\r\n", False),
        (b"GET /problems/overloaded HTTP/1.1\r\n", False),
        (b"GET /livezz HTTP/1.1\r\n", True),
        (b"GET /a/livez HTTP/1.1\r\n", True),
        (b"GET", True),
        (b"\r\n", True),
        (b"GET /" + b"a" * 1000, True),
    ],
)
async def test_own_pages_do_not_wait(begin: bytes, *, waits: bool) -> None:
    gate, backlog = full(waiting=1)
    assert backlog.must_wait(begin) is waits
    gate.leave()
    assert not backlog.must_wait(begin)
