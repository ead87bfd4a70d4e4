"""Keeps the addresses of an upstream's names fresh: resolves them again and again, and reports when they have changed.

Built only where the document sets `dns_ttl`. It does not know who uses the addresses, and it never makes a call wait: until the first
answer of DNS the addresses are the ones written, which the transport resolves by itself.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Self

import msgspec

from anabranch.core.exchange import Address

Lookup = Callable[[str, int], Awaitable[list[str]]]
"""`await lookup(host, port)`: the literal IP addresses of a name. Raises OSError (of which `socket.gaierror` is one) when it has none."""

LOOKUP_TIMEOUT_S: Final = 5.0


async def system_lookup(host: str, port: int) -> list[str]:
    """Ask the system's resolver, which heeds /etc/hosts and search domains (a short Kubernetes name works)."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [str(sockaddr[0]) for _, _, _, _, sockaddr in found]


class Resolver:
    """Resolves the names in `addresses` when it is entered and then about every `ttl_s`, in one task of its own.

    Every address of a name becomes an `Address` with `ip` set; `host` stays, for the Host header and for TLS. Literal IP addresses stay
    as they are. `on_change`: called in the loop with the whole new set, only when it differs from the one before; the order of the
    written addresses is kept, and the IPs of one name are sorted, so that DNS's rotation is no change.

    A name that cannot be resolved (or not within LOOKUP_TIMEOUT_S, or to nothing) keeps the addresses that it had: a DNS outage must not
    become an outage of the service. `on_failure`: told the name and the reason each time. `ttl_s` is spread by a tenth, so that many
    gateways do not ask at once; `random` draws from [0, 1).

    Leaving the context cancels the task and waits for its end; an error that ended it before (one in `on_change`) is raised there.
    """

    def __init__(
        self,
        addresses: tuple[Address, ...],
        *,
        ttl_s: float,
        on_change: Callable[[tuple[Address, ...]], None],
        random: Callable[[], float],
        lookup: Lookup = system_lookup,
        on_failure: Callable[[str, str], None] | None = None,
    ) -> None:
        self._written = addresses
        self._known: dict[Address, tuple[Address, ...]] = {address: (address,) for address in addresses}
        self._ttl_s = ttl_s
        self._on_change = on_change
        self._random = random
        self._lookup = lookup
        self._on_failure = on_failure
        self._task: asyncio.Task[None] | None = None

    @property
    def addresses(self) -> tuple[Address, ...]:
        """What is known now, without repeats."""
        return tuple(dict.fromkeys(address for written in self._written for address in self._known[written]))

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="resolve")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()

    async def refresh(self) -> None:
        """Resolve every name once, side by side, and report a change. Does not raise for a name that cannot be resolved."""
        before = self.addresses
        names = [address for address in dict.fromkeys(self._written) if address.ip is None and not _is_literal(address.host)]
        for address, found in zip(names, await asyncio.gather(*map(self._resolve, names)), strict=True):
            if found:
                self._known[address] = found
        after = self.addresses
        if after != before:
            self._on_change(after)

    async def _run(self) -> None:
        while True:
            await self.refresh()
            await asyncio.sleep(self._ttl_s * (0.9 + 0.2 * self._random()))

    async def _resolve(self, address: Address) -> tuple[Address, ...]:
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT_S):
                found = await self._lookup(address.host, address.port)
        except TimeoutError:
            reason = f"no answer within {LOOKUP_TIMEOUT_S:g} s"
        except (OSError, UnicodeError) as error:
            reason = str(error) or type(error).__name__
        else:
            if found:
                return tuple(msgspec.structs.replace(address, ip=ip) for ip in sorted(set(found)))
            reason = "no address"
        if self._on_failure is not None:
            self._on_failure(address.host, reason)
        return ()


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
