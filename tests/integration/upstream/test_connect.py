"""Connecting: names, refused connections, timeouts, IPv6 and Happy Eyeballs (RFC 8305)."""

import asyncio
import socket
from typing import Any

import msgspec
import pytest

from anabranch.core.exchange import Address
from anabranch.errors import ConnectError, ConnectTimeout, ResolveError, UpstreamError, UpstreamTimeout
from anabranch.upstream.dial import ATTEMPT_DELAY_S
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

    def __init__(self) -> None:
        self._server = socket.socket()
        self._server.bind(("127.0.0.1", 0))
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


class Resolver:
    """Replaces the loop's resolver."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
        self._hosts = hosts
        monkeypatch.setattr("anabranch.upstream.dial._lookup", self.lookup)

    async def lookup(self, host: str, port: int) -> list[Any]:
        return [(socket.AF_INET6 if ":" in ip else socket.AF_INET, (ip, port, 0, 0) if ":" in ip else (ip, port)) for ip in self._hosts]


async def test_next_address_is_tried_at_once_after_a_refused_connection(wire: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also works on a machine without IPv6: unreachable is equivalent to refused."""
    monkeypatch.setattr("anabranch.upstream.dial.ATTEMPT_DELAY_S", 3600.0)  # not awaited
    Resolver(monkeypatch, "::1", "127.0.0.2", "127.0.0.1")
    upstream = await wire.serve({"*": OK})
    caller = wire.caller(f"http://several.invalid:{upstream.port}")
    assert (await caller.ask()).status == 200
    assert upstream.accepted == 1


async def test_connect_error_when_all_addresses_refuse(wire: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    Resolver(monkeypatch, "127.0.0.2", "127.0.0.3")
    upstream = await wire.serve({})
    caller = wire.caller(f"http://several.invalid:{upstream.port}")
    with pytest.raises(ConnectError, match="refused"):
        await caller.ask()


async def test_silent_address_is_overtaken_after_the_attempt_delay(wire: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    with BlackHole() as url:
        hole = Address.parse(url)
        upstream = await wire.serve({"*": OK})

        async def lookup(host: str, port: int) -> list[Any]:
            return [(socket.AF_INET, (hole.host, hole.port)), (socket.AF_INET, ("127.0.0.1", upstream.port))]

        monkeypatch.setattr("anabranch.upstream.dial._lookup", lookup)
        caller = wire.caller("http://several.invalid:1", connect_timeout="30s")
        started = asyncio.get_running_loop().time()
        assert (await caller.ask(within_s=30.0)).status == 200
        assert asyncio.get_running_loop().time() - started >= ATTEMPT_DELAY_S * 0.9


async def test_cancelled_race_of_addresses_leaves_nothing(wire: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    with BlackHole() as first, BlackHole() as second:
        endpoints = [(socket.AF_INET, (hole.host, hole.port)) for hole in map(Address.parse, (first, second))]

        async def lookup(host: str, port: int) -> list[Any]:
            return endpoints

        monkeypatch.setattr("anabranch.upstream.dial._lookup", lookup)
        caller: Caller = wire.caller("http://several.invalid:1", connect_timeout="300ms")
        patient: Caller = wire.caller("http://several.invalid:1", connect_timeout="30s")
        async with no_leaks():
            with pytest.raises(ConnectTimeout):
                await caller.ask()
            task = asyncio.create_task(patient.ask())
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
