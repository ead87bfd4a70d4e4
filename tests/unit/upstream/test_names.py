"""Look-ups of names: shared, bounded, in threads of their own."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from anabranch.errors import ResolveError
from anabranch.upstream import names as module
from anabranch.upstream.names import MAX_THREADS, Names
from tests.support.dns import Silence, Zone
from tests.support.eventually import eventually

DEAD = "dead.svc"
NAME = "flights.svc"


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Zone]:
    made = Zone(monkeypatch)
    yield made
    made.close()


async def test_addresses_come_in_the_resolvers_order_without_a_port(zone: Zone) -> None:
    zone.names[NAME] = ("10.0.0.2", "fd00::1", "10.0.0.1")
    assert await Names().look_up(NAME) == (
        (socket.AF_INET, ("10.0.0.2", 0)),
        (socket.AF_INET6, ("fd00::1", 0, 0, 0)),
        (socket.AF_INET, ("10.0.0.1", 0)),
    )


async def test_callers_at_the_same_time_share_one_look_up_and_later_ones_do_not(zone: Zone) -> None:
    silence = zone.names[NAME] = Silence()
    names = Names()
    waiting = [asyncio.create_task(names.look_up(NAME)) for _ in range(50)]
    await eventually(lambda: zone.asked[NAME] == 1)
    silence.end("10.0.0.1")
    assert {found[0][1][0] for found in await asyncio.gather(*waiting)} == {"10.0.0.1"}
    assert zone.asked[NAME] == 1
    await names.look_up(NAME)
    assert zone.asked[NAME] == 2


async def test_name_that_hangs_takes_nothing_from_other_names(zone: Zone) -> None:
    silence = zone.names[DEAD] = Silence()
    zone.names |= {f"n{number}.svc": ("10.0.0.1",) for number in range(20)}
    names = Names()
    waiting = [asyncio.create_task(names.look_up(DEAD)) for _ in range(20)]
    await eventually(lambda: zone.threads[DEAD] == 1)
    await asyncio.gather(*(names.look_up(f"n{number}.svc") for number in range(20)))
    assert not any(task.done() for task in waiting)
    silence.end("10.0.0.9")
    await asyncio.gather(*waiting)


async def test_cancelled_callers_leave_one_look_up_that_the_next_one_shares(zone: Zone) -> None:
    silence = zone.names[DEAD] = Silence()
    names = Names()
    for _ in range(30):
        task = asyncio.create_task(names.look_up(DEAD))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert names.is_pending(DEAD)
    late = asyncio.create_task(names.look_up(DEAD))
    await asyncio.sleep(0)
    silence.end("10.0.0.1")
    assert len(await late) == 1
    assert zone.asked[DEAD] == 1
    assert not names.is_pending(DEAD)


async def test_callers_wait_no_longer_than_the_limit_and_threads_stay_few(zone: Zone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOKUP_TIMEOUT_S", 0.02)
    silence = zone.names[DEAD] = Silence()
    names = Names()
    for _ in range(5):
        with pytest.raises(ResolveError, match=r"not resolved within 0\.02 s"):
            await names.look_up(DEAD)
    assert zone.asked[DEAD] == zone.threads[DEAD] == MAX_THREADS
    silence.end("10.0.0.1")
    await eventually(lambda: zone.threads[DEAD] == 0)
    monkeypatch.setattr(module, "LOOKUP_TIMEOUT_S", 60.0)
    assert len(await names.look_up(DEAD)) == 1


async def test_look_up_that_was_given_up_serves_whoever_waits_when_it_succeeds(zone: Zone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOKUP_TIMEOUT_S", 0.02)
    first = zone.names[DEAD] = Silence()
    names = Names()
    with pytest.raises(ResolveError):
        await names.look_up(DEAD)
    second = zone.names[DEAD] = Silence()
    monkeypatch.setattr(module, "LOOKUP_TIMEOUT_S", 0.0)
    with pytest.raises(ResolveError):
        await names.look_up(DEAD)
    await eventually(lambda: zone.threads[DEAD] == 2)
    monkeypatch.setattr(module, "LOOKUP_TIMEOUT_S", 60.0)
    waiting = asyncio.create_task(names.look_up(DEAD))
    await asyncio.sleep(0)
    first.end("10.0.0.1")
    assert len(await waiting) == 1
    second.end()


async def test_look_up_that_was_given_up_and_fails_does_not_end_the_one_that_replaced_it(
    zone: Zone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOKUP_TIMEOUT_S", 0.0)
    first = zone.names[DEAD] = Silence()
    names = Names()
    with pytest.raises(ResolveError):
        await names.look_up(DEAD)
    await eventually(lambda: zone.threads[DEAD] == 1)
    second = zone.names[DEAD] = Silence()
    with pytest.raises(ResolveError):
        await names.look_up(DEAD)
    await eventually(lambda: zone.threads[DEAD] == 2)
    monkeypatch.setattr(module, "LOOKUP_TIMEOUT_S", 60.0)
    waiting = asyncio.create_task(names.look_up(DEAD))
    first.end()
    await eventually(lambda: zone.threads[DEAD] == 1)
    await asyncio.sleep(0)
    assert not waiting.done()
    second.end("10.0.0.1")
    assert len(await waiting) == 1


@pytest.mark.parametrize("found", [(), OSError("secret.example is down"), UnicodeError("label too long")])
async def test_name_without_address_is_one_error_for_each_caller(zone: Zone, found: tuple[str, ...] | Exception) -> None:
    zone.names[NAME] = found or Silence()
    if isinstance(silence := zone.names[NAME], Silence):
        silence.end()
    names = Names()
    errors = await asyncio.gather(*(names.look_up(NAME) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(error, ResolveError) for error in errors)
    assert len({id(error) for error in errors}) == 3
    assert {error.detail for error in errors if isinstance(error, ResolveError)} == {"the service's host name has no address"}


@pytest.mark.parametrize("name", ["a" * 64 + ".svc", "a..svc", ""])
async def test_what_is_no_name_has_no_address(name: str) -> None:
    with pytest.raises(ResolveError):
        await Names().look_up(name)


async def test_thread_that_cannot_start_is_an_error_and_no_end(zone: Zone, monkeypatch: pytest.MonkeyPatch) -> None:
    zone.names[NAME] = ("10.0.0.1",)
    names = Names()
    with monkeypatch.context() as patch:
        patch.setattr("threading.Thread.start", _no_thread)
        with pytest.raises(ResolveError):
            await names.look_up(NAME)
    assert len(await names.look_up(NAME)) == 1


def _no_thread(_: object) -> None:
    raise RuntimeError("can't start new thread")


_EXIT = """
import asyncio, socket, time
from anabranch.upstream.names import Names
socket.getaddrinfo = lambda *_, **__: time.sleep(600)
async def main():
    asyncio.create_task(Names().look_up("dead.svc"))
    await asyncio.sleep(0.05)
asyncio.run(main())
print("done")
"""


def test_process_does_not_wait_for_a_look_up_that_hangs() -> None:
    done = subprocess.run([sys.executable, "-c", _EXIT], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("done\n", "")
