"""Connecting: names, refused connections, timeouts, IPv6 and Happy Eyeballs (RFC 8305)."""

import asyncio
import socket
from collections.abc import Iterator

import msgspec
import pytest

from anabranch.core.exchange import Address
from anabranch.errors import ConnectError, ConnectTimeout, ResolveError, UpstreamError, UpstreamTimeout
from anabranch.upstream.dial import ATTEMPT_DELAY_S
from tests.support.dns import Silence, Zone
from tests.support.eventually import eventually
from tests.support.leaks import no_leaks
from tests.support.rig import Caller, Rig

OK = {"json": {"ok": True}}


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


class BlackHole:
    """A listening socket with a full backlog: the kernel ignores further connection attempts."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._server = socket.socket()
        self._server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._server.bind((host, port))
        self._server.listen(0)
        self._fill: list[socket.socket] = []

    def __enter__(self) -> str:
        host, port = self._server.getsockname()
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex((host, port))
            self._fill.append(sock)
        return f"http://{host}:{port}"

    def __exit__(self, *exc: object) -> None:
        for sock in [*self._fill, self._server]:
            sock.close()


async def test_refused_connection_is_a_connect_error_and_sends_nothing(rig: Rig) -> None:
    upstream = await rig.serve({})
    caller = rig.caller(upstream.url)
    await upstream.stop()
    with pytest.raises(ConnectError, match="refused") as caught:
        await caller.ask()
    assert type(caught.value) is ConnectError
    assert not caught.value.may_be_processed
    assert "127.0.0.1" not in caught.value.detail


async def test_unresolvable_name_sends_nothing(rig: Rig) -> None:
    caller = rig.caller("http://no-such-host.invalid:1")
    with pytest.raises(ResolveError) as caught:
        await caller.ask()
    assert not caught.value.may_be_processed
    assert "invalid" not in caught.value.detail


async def test_connect_timeout_is_not_the_deadline(rig: Rig) -> None:
    with BlackHole() as url:
        caller = rig.caller(url, connect_timeout="50ms")
        with pytest.raises(ConnectTimeout) as caught:
            await caller.ask(within_s=30.0)
        assert not caught.value.may_be_processed
        patient = rig.caller(url, connect_timeout="30s")
        with pytest.raises(UpstreamTimeout) as late:
            await patient.ask(within_s=0.02)
        assert not late.value.may_be_processed
        assert (caller.connections, patient.connections) == (0, 0)


async def test_cancellation_while_connecting_leaves_nothing(rig: Rig) -> None:
    with BlackHole() as url:
        caller = rig.caller(url, connect_timeout="30s")
        tasks = [asyncio.create_task(caller.ask()) for _ in range(20)]
        await asyncio.sleep(0.02)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        assert caller.connections == 0


async def test_close_ends_connection_attempts(rig: Rig) -> None:
    with BlackHole() as url:
        caller = rig.caller(url, connect_timeout="30s")
        task = asyncio.create_task(caller.ask(within_s=30.0))
        await asyncio.sleep(0.02)
        await caller.transport.aclose()
        with pytest.raises(UpstreamError) as caught:
            await task
        assert not caught.value.may_be_processed


async def test_connection_reset_right_after_opening_fails(rig: Rig) -> None:
    _, caller = await rig.both({"reset_on_accept": True, "routes": {}})
    for _ in range(5):
        with pytest.raises(UpstreamError):
            await caller.ask()
    assert caller.connections == 0


async def test_address_with_a_fixed_ip_keeps_its_host_name(rig: Rig) -> None:
    upstream = await rig.serve({"*": OK})
    caller = rig.caller(f"http://service.invalid:{upstream.port}")
    caller.address = msgspec.structs.replace(caller.address, ip="127.0.0.1")
    assert (await caller.ask()).status == 200
    assert upstream.hits[0].header("host") == f"service.invalid:{upstream.port}"


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
async def test_ipv6_literal_is_reached(rig: Rig) -> None:
    upstream = await rig.serve({"*": OK}, host="::1")
    caller = rig.caller(upstream.url)
    assert (await caller.ask()).status == 200
    assert upstream.hits[0].header("host") == f"[::1]:{upstream.port}"


SEVERAL = "several.svc"


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Zone]:
    made = Zone(monkeypatch)
    yield made
    made.close()


async def test_next_address_is_tried_at_once_after_a_refused_connection(rig: Rig, zone: Zone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also works on a machine without IPv6: unreachable is equivalent to refused."""
    monkeypatch.setattr("anabranch.upstream.dial.ATTEMPT_DELAY_S", 3600.0)  # not awaited
    zone.names[SEVERAL] = ("::1", "127.0.0.2", "127.0.0.1")
    upstream = await rig.serve({"*": OK})
    caller = rig.caller(f"http://{SEVERAL}:{upstream.port}")
    assert (await caller.ask()).status == 200
    assert upstream.accepted == 1


async def test_connect_error_when_all_addresses_refuse(rig: Rig, zone: Zone) -> None:
    zone.names[SEVERAL] = ("127.0.0.2", "127.0.0.3")
    upstream = await rig.serve({})
    caller = rig.caller(f"http://{SEVERAL}:{upstream.port}")
    with pytest.raises(ConnectError, match="refused"):
        await caller.ask()


async def test_silent_address_is_overtaken_after_the_attempt_delay(rig: Rig, zone: Zone) -> None:
    upstream = await rig.serve({"*": OK})
    with BlackHole("127.0.0.2", upstream.port):
        zone.names[SEVERAL] = ("127.0.0.2", "127.0.0.1")
        caller = rig.caller(f"http://{SEVERAL}:{upstream.port}", connect_timeout="30s")
        started = asyncio.get_running_loop().time()
        assert (await caller.ask(within_s=30.0)).status == 200
        assert asyncio.get_running_loop().time() - started >= ATTEMPT_DELAY_S * 0.9


async def test_cancelled_race_of_addresses_leaves_nothing(rig: Rig, zone: Zone) -> None:
    with BlackHole("127.0.0.2") as first, BlackHole("127.0.0.3", Address.parse(first).port):
        zone.names[SEVERAL] = ("127.0.0.2", "127.0.0.3")
        url = f"http://{SEVERAL}:{Address.parse(first).port}"
        caller: Caller = rig.caller(url, connect_timeout="300ms")
        patient: Caller = rig.caller(url, connect_timeout="30s")
        async with no_leaks():
            with pytest.raises(ConnectTimeout):
                await caller.ask()
            task = asyncio.create_task(patient.ask())
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


# ------------------------------------------------------------------------------------------------- names that hang

DEAD = "dead.svc"


async def test_name_that_dns_never_answers_delays_nobody_else(rig: Rig, zone: Zone) -> None:
    """Not by name, not by address, and not other upstreams of the same transport: each has look-ups of its own."""
    silence, zone.names["alive.svc"] = Silence(), ("127.0.0.1",)
    zone.names[DEAD] = silence
    upstream = await rig.serve({"*": OK})
    dead = rig.caller(f"http://{DEAD}:{upstream.port}", connect_timeout="30s")
    hanging = [asyncio.create_task(dead.ask(within_s=30.0)) for _ in range(20)]
    await eventually(lambda: zone.threads[DEAD] == 1)
    for url in (upstream.url, f"http://alive.svc:{upstream.port}", f"http://localhost:{upstream.port}"):
        caller = rig.caller(url, connect_timeout="10s")
        assert [(await caller.ask()).status for _ in range(3)] == [200] * 3
    assert zone.asked[DEAD] == 1
    assert not any(task.done() for task in hanging)
    silence.end("127.0.0.1")
    assert {answer.status for answer in await asyncio.gather(*hanging)} == {200}


async def test_cancelled_dials_of_a_dead_name_leave_one_thread(rig: Rig, zone: Zone) -> None:
    silence = zone.names[DEAD] = Silence()
    upstream = await rig.serve({"*": OK})
    caller = rig.caller(f"http://{DEAD}:{upstream.port}", connect_timeout="30s")
    for _ in range(3):
        tasks = [asyncio.create_task(caller.ask()) for _ in range(10)]
        await eventually(lambda: zone.threads[DEAD] == 1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert (zone.asked[DEAD], caller.connections) == (1, 0)
    last = asyncio.create_task(caller.ask(within_s=30.0))
    await asyncio.sleep(0.01)
    silence.end("127.0.0.1")
    assert (await last).status == 200


async def test_timeout_of_a_look_up_says_so(rig: Rig, zone: Zone) -> None:
    zone.names[DEAD] = Silence()
    caller = rig.caller(f"http://{DEAD}:1", connect_timeout="50ms")
    with pytest.raises(ConnectTimeout, match="host name was not resolved in time") as caught:
        await caller.ask(within_s=30.0)
    assert not caught.value.may_be_processed
    assert "dead" not in caught.value.detail


async def test_dns_that_fails_and_comes_back_is_asked_again(rig: Rig, zone: Zone) -> None:
    upstream = await rig.serve({"*": OK})
    caller = rig.caller(f"http://{DEAD}:{upstream.port}")
    zone.names[DEAD] = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    with pytest.raises(ResolveError):
        await caller.ask()
    zone.names[DEAD] = ("127.0.0.1",)
    assert (await caller.ask()).status == 200


# ------------------------------------------------------------------------------------------------ names with a dot


async def test_dot_that_ends_a_name_is_resolved_and_sent_nowhere(rig: Rig, zone: Zone) -> None:
    """RFC 1034 section 3.1: the name is absolute. RFC 9110 section 7.2: Host is compared as it stands."""
    zone.names["alive.svc."] = ("127.0.0.1",)
    upstream = await rig.serve({"*": OK})
    caller = rig.caller(f"http://alive.svc.:{upstream.port}")
    assert (await caller.ask()).status == 200
    assert zone.asked == {"alive.svc.": 1}
    assert upstream.hits[0].header("host") == f"alive.svc:{upstream.port}"


async def test_dot_behind_an_address_is_taken_off(rig: Rig) -> None:
    upstream = await rig.serve({"*": OK})
    caller = rig.caller(f"http://127.0.0.1.:{upstream.port}")
    assert (await caller.ask()).status == 200
    assert upstream.hits[0].header("host") == f"127.0.0.1:{upstream.port}"
