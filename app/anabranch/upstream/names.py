"""Looks up the host names of one upstream, so that a name which DNS never answers delays nobody else.

The look-ups of the event loop share one small pool of threads (two for uvloop), and a look-up whose caller has gone still occupies its
thread: a few calls to a dead name would stop every other name, even literal addresses. Here each look-up has a thread of its own, all
callers that need the name at the same time share it, and their number for each name is bounded. Not on the hot path: a look-up takes a new
thread (0.1 ms), and is made only for a new connection.
"""

import asyncio
import socket
import threading
from collections import Counter
from contextlib import suppress
from time import monotonic
from typing import Final

from anabranch.errors import ResolveError

SocketAddress = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]

LOOKUP_TIMEOUT_S: Final = 5.0
"""Longest wait of a caller, and the age from which a look-up without a result is given up: the next caller starts another one."""
MAX_THREADS: Final = 2
"""Look-ups of one name at the same time: the last one, and one that was given up. C libraries give up after 10 to 30 s."""

_FAMILIES: Final = frozenset({socket.AF_INET, socket.AF_INET6})


class _Lookup:
    """What the callers of one name wait for. The result: addresses, or None if the name has none."""

    __slots__ = ("began", "result")

    def __init__(self, result: "asyncio.Future[tuple[SocketAddress, ...] | None]") -> None:
        self.result = result
        self.began = float("-inf")


class Names:
    """Looks up names by the system's resolver, which uses /etc/hosts and search domains (short Kubernetes names work). Caches nothing.

    `flags`: of `getaddrinfo`. The threads are daemons: neither closing an upstream nor the end of the process waits for one that hangs.
    """

    def __init__(self, *, flags: int = 0) -> None:
        self._flags = flags
        self._lookups: dict[str, _Lookup] = {}
        self._threads: Counter[str] = Counter()

    async def look_up(self, host: str) -> tuple[SocketAddress, ...]:
        """The addresses of `host` in the resolver's order, with port 0; at least one.

        Raises ResolveError if it has none, or if there is no result within LOOKUP_TIMEOUT_S. Cancellation ends the wait of this caller only;
        the look-up goes on, and the next caller shares it.
        """
        lookup = self._lookups.get(host)
        if lookup is None:
            lookup = self._lookups[host] = _Lookup(asyncio.get_running_loop().create_future())
        now = monotonic()
        if now - lookup.began >= LOOKUP_TIMEOUT_S and self._threads[host] < MAX_THREADS:
            lookup.began = now
            self._start(host, now)
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT_S):
                found = await asyncio.shield(lookup.result)
        except TimeoutError:
            raise ResolveError(f"the service's host name was not resolved within {LOOKUP_TIMEOUT_S:g} s") from None
        if not found:
            raise ResolveError("the service's host name has no address")
        return found

    def is_pending(self, host: str) -> bool:
        """Whether a caller waits, or has waited in vain, for a look-up of `host` that has not ended."""
        return host in self._lookups

    def _start(self, host: str, began: float) -> None:
        thread = threading.Thread(target=self._run, args=(asyncio.get_running_loop(), host, began), name="resolve", daemon=True)
        self._threads[host] += 1
        try:
            thread.start()
        except RuntimeError:  # the process may have no further thread
            self._finish(host, began, None)

    def _run(self, loop: asyncio.AbstractEventLoop, host: str, began: float) -> None:
        """In the thread: look the name up and hand over the result."""
        found: tuple[SocketAddress, ...] | None = None
        with suppress(OSError, UnicodeError):  # UnicodeError: a label of the name is empty or has more than 63 characters
            infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=self._flags)
            found = tuple((info[0], info[4]) for info in infos if info[0] in _FAMILIES)  # type: ignore[misc]
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(self._finish, host, began, found)

    def _finish(self, host: str, began: float, found: tuple[SocketAddress, ...] | None) -> None:
        """End the look-up of `host`. One that was given up and fails at last does not end the one that replaced it."""
        self._threads[host] -= 1
        if not self._threads[host]:
            del self._threads[host]
        lookup = self._lookups.get(host)
        if lookup is not None and (found or lookup.began == began):
            del self._lookups[host]
            lookup.result.set_result(found)
