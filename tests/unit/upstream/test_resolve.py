import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from anabranch.core.exchange import Address
from anabranch.errors import ResolveError
from anabranch.upstream.names import SocketAddress
from anabranch.upstream.resolve import Resolver
from tests.support.clock import FakeTimeLoop

NAME = Address.parse("https://flights.svc:8443/api")
OTHER = Address.parse("http://spare.svc")


def at(address: Address, ip: str) -> Address:
    return msgspec.structs.replace(address, ip=ip)


class Zone:
    """A scripted DNS: what each name has now, or why it has nothing; a float is slept before that."""

    def __init__(self, **names: list[str] | str | float) -> None:
        self.names: dict[str, list[str] | str | float] = {f"{name}.svc": found for name, found in names.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str) -> list[SocketAddress]:
        self.asked.append(host)
        found = self.names[host.removesuffix(".")]
        if isinstance(found, float):
            await asyncio.sleep(found)
            found = "no answer"
        if isinstance(found, str):
            raise ResolveError(found)
        return [(socket.AF_INET, (ip, 0)) for ip in found]


class Watch:
    def __init__(self) -> None:
        self.changes: list[tuple[Address, ...]] = []
        self.failures: list[tuple[str, str]] = []

    def resolver(self, zone: Zone, *addresses: Address, ttl_s: float = 10) -> Resolver:
        return Resolver(
            addresses,
            ttl_s=ttl_s,
            on_change=self.changes.append,
            random=lambda: 0.5,
            lookup=zone,
            on_failure=lambda host, reason: self.failures.append((host, reason)),
        )


def in_fake_time(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=FakeTimeLoop) as runner:
        runner.run(main())


def test_all_addresses_of_a_name_are_used_and_the_name_is_kept() -> None:
    async def main() -> None:
        zone, watch = Zone(flights=["10.0.0.2", "10.0.0.1", "10.0.0.2"]), Watch()
        async with watch.resolver(zone, NAME):
            await asyncio.sleep(1)
        assert watch.changes == [(at(NAME, "10.0.0.1"), at(NAME, "10.0.0.2"))]
        assert watch.changes[0][0].authority == "flights.svc:8443"
        assert watch.changes[0][0].base_path == "/api"
        assert zone.asked == ["flights.svc"]

    in_fake_time(main)


def test_configured_addresses_are_used_until_the_first_answer() -> None:
    watch = Watch()
    assert watch.resolver(Zone(), NAME, OTHER).addresses == (NAME, OTHER)


def test_names_are_resolved_again_after_the_ttl() -> None:
    async def main() -> None:
        zone, watch = Zone(flights=["10.0.0.1"]), Watch()
        async with watch.resolver(zone, NAME):
            await asyncio.sleep(9)
            assert len(zone.asked) == 1
            zone.names["flights.svc"] = ["10.0.0.1", "10.0.0.9"]
            await asyncio.sleep(2)
            assert len(zone.asked) == 2
        assert watch.changes == [(at(NAME, "10.0.0.1"),), (at(NAME, "10.0.0.1"), at(NAME, "10.0.0.9"))]

    in_fake_time(main)


def test_rotated_dns_answers_are_not_a_change() -> None:
    async def main() -> None:
        zone, watch = Zone(flights=["10.0.0.1", "10.0.0.2"]), Watch()
        resolver = watch.resolver(zone, NAME)
        await resolver.refresh()
        zone.names["flights.svc"] = ["10.0.0.2", "10.0.0.1"]
        await resolver.refresh()
        assert len(watch.changes) == 1

    in_fake_time(main)


@pytest.mark.parametrize("outage", ["the service's host name has no address", 60.0])
def test_addresses_stay_while_dns_fails(outage: str | float) -> None:
    async def main() -> None:
        zone, watch = Zone(flights=["10.0.0.1"], spare=["10.0.1.1"]), Watch()
        resolver = watch.resolver(zone, NAME, OTHER)
        await resolver.refresh()
        zone.names["flights.svc"] = outage
        zone.names["spare.svc"] = ["10.0.1.2"]
        await resolver.refresh()
        assert watch.changes[-1] == resolver.addresses == (at(NAME, "10.0.0.1"), at(OTHER, "10.0.1.2"))
        assert watch.failures == [("flights.svc", outage if isinstance(outage, str) else "no answer")]

    in_fake_time(main)


def test_absolute_name_is_resolved_with_its_dot() -> None:
    async def main() -> None:
        zone, watch = Zone(flights=["10.0.0.1"]), Watch()
        await watch.resolver(zone, Address.parse("https://flights.svc.:8443/api")).refresh()
        assert zone.asked == ["flights.svc."]
        assert watch.changes[0][0].authority == "flights.svc:8443"

    in_fake_time(main)


def test_configured_address_is_used_when_dns_is_down_from_the_start() -> None:
    async def main() -> None:
        zone, watch = Zone(flights="down"), Watch()
        async with watch.resolver(zone, NAME) as resolver:
            await asyncio.sleep(100)
            assert resolver.addresses == (NAME,)
            assert len(zone.asked) > 5
            zone.names["flights.svc"] = ["10.0.0.1"]
            await asyncio.sleep(11)
            assert watch.changes == [(at(NAME, "10.0.0.1"),)]

    in_fake_time(main)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9101", "http://[::1]:9101"])
def test_literal_addresses_are_not_resolved(url: str) -> None:
    async def main() -> None:
        literal = Address.parse(url)
        zone, watch = Zone(flights=["10.0.0.1"]), Watch()
        resolver = watch.resolver(zone, literal, NAME)
        await resolver.refresh()
        assert watch.changes == [(literal, at(NAME, "10.0.0.1"))]
        assert len(zone.asked) == 1

    in_fake_time(main)


def test_closing_ends_a_hanging_lookup() -> None:
    async def main() -> None:
        async with Watch().resolver(Zone(flights=60.0), NAME):
            await asyncio.sleep(0.1)
            assert any(task.get_name() == "resolve" for task in asyncio.all_tasks())
        assert not any(task.get_name() == "resolve" for task in asyncio.all_tasks())

    in_fake_time(main)


def test_error_in_the_callback_is_raised_at_close() -> None:
    def broken(addresses: tuple[Address, ...]) -> None:
        raise RuntimeError("a bug")

    async def main() -> None:
        resolver = Resolver((NAME,), ttl_s=10, on_change=broken, random=lambda: 0.5, lookup=Zone(flights=["10.0.0.1"]))
        with pytest.raises(RuntimeError, match="a bug"):
            async with resolver:
                await asyncio.sleep(1)

    in_fake_time(main)
