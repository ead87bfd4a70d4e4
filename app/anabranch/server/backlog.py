"""The backlog: connections whose next request waits, unparsed, for a free slot.

Under overload most requests wait or are rejected, and the work they cause slows down the admitted ones. An unparsed request costs almost
nothing: no scope, no task, no timer of its own. So at the concurrency limit, incoming bytes are kept as they are, and parsed when the
request is admitted or rejected.

Of HTTP, this module reads the first segment of the path only.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

from anabranch.edge.admission import OPEN_TO_ALL
from anabranch.guard.concurrency import Gate
from anabranch.policy.bulkhead import RETRY_AFTER_S

_EXEMPT: Final = frozenset(name.encode() for name in OPEN_TO_ALL)
_PEEK_BYTES: Final = 64
QUICK_PER_S: Final = 200
"""Requests rejected immediately in each second; further ones are held first."""
_HOLD_S: Final = RETRY_AFTER_S
_MAX_HELD: Final = 4096
_MAX_BYTES: Final = 64 * 1024 * 1024
"""Total of all waiting and held requests. Beyond it requests are rejected immediately, which bounds the memory they use."""


class PendingConnection(Protocol):
    """A connection whose next request has arrived, in part or whole, and has not been parsed."""

    def admit(self) -> bool:
        """Parse and serve the request. Returns whether it used the slot: it does not when its head is incomplete or malformed."""
        ...

    def reject(self) -> None:
        """Parse the request and answer 503."""
        ...


class _Queue:
    """First in, first out. Calls `on_expire` for a connection that has been queued for `max_wait_s`. One timer serves all connections."""

    __slots__ = ("_expires_at", "_loop", "_max_wait_s", "_on_expire", "_timer")

    def __init__(self, max_wait_s: float, on_expire: Callable[[PendingConnection], None]) -> None:
        self._max_wait_s = max_wait_s
        self._on_expire = on_expire
        self._expires_at: OrderedDict[PendingConnection, float] = OrderedDict()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._expires_at)

    def add(self, connection: PendingConnection) -> None:
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        expires_at = self._expires_at[connection] = loop.time() + self._max_wait_s
        if self._timer is None:
            self._timer = loop.call_at(expires_at, self._expire)

    def discard(self, connection: PendingConnection) -> None:
        self._expires_at.pop(connection, None)

    def pop(self) -> PendingConnection:
        return self._expires_at.popitem(last=False)[0]

    def _expire(self) -> None:
        assert self._loop is not None
        self._timer = None
        while self._expires_at:
            connection, expires_at = next(iter(self._expires_at.items()))
            if expires_at > self._loop.time():
                self._timer = self._loop.call_at(expires_at, self._expire)
                return
            del self._expires_at[connection]
            self._on_expire(connection)


class Backlog:
    """Queues connections in front of `gate`, as many and for as long as the gate allows.

    Further requests are rejected: immediately while there are few of them, after a second when there are many. Many clients retry at once,
    and answering them would consume the gateway's time; a client that is still waiting for its answer cannot retry.
    """

    __slots__ = ("_gate", "_held", "_quick", "_second", "_waiting", "unread_bytes")

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._waiting = _Queue(gate.wait_s, self._shed)
        self._held = _Queue(_HOLD_S, _reject)
        self._quick = 0
        self._second = -1
        self.unread_bytes = 0
        """Bytes of all connections in the backlog. The connections update it."""
        gate.attach(self)

    def __len__(self) -> int:
        """How many connections wait for a slot."""
        return len(self._waiting)

    def must_wait(self, data: bytes) -> bool:
        """Whether a request beginning with `data` has to wait: no slot is free, and it is not for one of the gateway's own pages."""
        return self._gate.is_full and not _is_exempt(data)

    def add(self, connection: PendingConnection) -> None:
        """Queue the connection, or reject it. Calls its `admit` or `reject` once, unless `discard` is called first."""
        if len(self._waiting) < self._gate.waiting and self.unread_bytes <= _MAX_BYTES:
            self._waiting.add(connection)
        else:
            self._shed(connection)

    def on_more_data(self, connection: PendingConnection) -> None:
        """A waiting or held request has received more bytes. Rejects it when the total of all connections is too large."""
        if self.unread_bytes > _MAX_BYTES:
            self.discard(connection)
            self._shed(connection)

    def discard(self, connection: PendingConnection) -> None:
        """Remove the connection without calling it."""
        self._waiting.discard(connection)
        self._held.discard(connection)

    def serve(self) -> None:
        """Admit the longest-waiting connections while slots are free."""
        while len(self._waiting) and self._gate.try_enter():
            if not self.admit_next():
                self._gate.bulkhead.release()

    def admit_next(self) -> bool:
        """Give the caller's slot to the longest-waiting connection. Returns whether a connection used it."""
        waiting = self._waiting
        while len(waiting):
            if waiting.pop().admit():
                self._gate.admitted += 1
                return True
        return False

    def _shed(self, connection: PendingConnection) -> None:
        self._gate.shed += 1
        second = int(asyncio.get_running_loop().time())
        if second != self._second:
            self._second = second
            self._quick = 0
        self._quick += 1
        if self._quick <= QUICK_PER_S or len(self._held) >= _MAX_HELD or self.unread_bytes > _MAX_BYTES:
            connection.reject()
        else:
            self._held.add(connection)


def _reject(connection: PendingConnection) -> None:
    connection.reject()


def _is_exempt(data: bytes) -> bool:
    words = data[:_PEEK_BYTES].split(b" ", 2)
    return len(words) > 1 and words[1][1:].partition(b"?")[0].partition(b"/")[0] in _EXEMPT
