"""Resolves an upstream's host names periodically and reports when their addresses change.

Built only if the document sets `dns_ttl`. Calls never wait for it: until DNS has answered for the first time, the addresses are those of
the document, which the transport resolves itself.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self

import msgspec

from anabranch.core.exchange import Address
from anabranch.errors import ResolveError
from anabranch.upstream.names import Names, SocketAddress

Lookup = Callable[[str], Awaitable[Sequence[SocketAddress]]]
"""`await lookup(host)`: the addresses of a name, their ports aside. Raises ResolveError if it has none, and in bounded time."""


class Resolver:
    """Resolves the names in `addresses` when it is entered and then about every `ttl_s`, in a task of its own.

    Every IP of a name becomes an `Address` with `ip` set; it keeps `host` for the Host header and for TLS. Literal IP addresses are not
    changed. `on_change`: called on the loop with all addresses, only if they differ from before. The order of the configured addresses is
    kept, and the IPs of one name are sorted, so that DNS rotation is not a change.

    A name that cannot be resolved keeps its addresses: a DNS outage must not become an outage of the service. `on_failure`: called each
    time with the name and the reason. `ttl_s` varies by a tenth, so that many gateways do not resolve at once; `random` draws from [0, 1).
    `lookup`: None uses the system's resolver, for the address families that this machine has.

    Leaving the context cancels the task and waits for its end. It raises the error that ended the task before, if any (one in `on_change`).
    """

    def __init__(
        self,
        addresses: tuple[Address, ...],
        *,
        ttl_s: float,
        on_change: Callable[[tuple[Address, ...]], None],
        random: Callable[[], float],
        lookup: Lookup | None = None,
        on_failure: Callable[[str, str], None] | None = None,
    ) -> None:
        self._configured = addresses
        self._known: dict[Address, tuple[Address, ...]] = {address: (address,) for address in addresses}
        self._ttl_s = ttl_s
        self._on_change = on_change
        self._random = random
        self._lookup = lookup or Names(flags=socket.AI_ADDRCONFIG).look_up
        self._on_failure = on_failure
        self._task: asyncio.Task[None] | None = None

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The current addresses, without duplicates."""
        return tuple(dict.fromkeys(address for configured in self._configured for address in self._known[configured]))

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
        """Resolve every name once, concurrently, and report a change. Does not raise if a name cannot be resolved."""
        before = self.addresses
        names = [address for address in dict.fromkeys(self._configured) if address.ip is None and not _is_literal(address.host)]
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
            found = await self._lookup(address.lookup_name)
        except ResolveError as error:
            if self._on_failure is not None:
                self._on_failure(address.host, error.detail)
            return ()
        ips = {place[0] for _, place in found}
        return tuple(msgspec.structs.replace(address, ip=ip) for ip in sorted(ips))


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
