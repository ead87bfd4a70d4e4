"""The backlog: connections whose next request waits, unread, for a place at the gate.

Under overload most requests wait or are turned away, and whatever is done for them is taken from those that were let in. A request that has
not been parsed has cost next to nothing: no scope, no task, no timer of its own. So while the gate is full, what comes on a connection is
kept as bytes. It is parsed when there is a place, or when it is turned away.

Knows connections and a gate; nothing of HTTP but the first word of a path.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

from anabranch.edge.admission import OPEN_TO_ALL
from anabranch.guard.concurrency import Gate
from anabranch.policy.bulkhead import RETRY_AFTER_S

_OPEN_TO_ALL: Final = frozenset(name.encode() for name in OPEN_TO_ALL)
_PEEK_BYTES: Final = 64
QUICK_PER_S: Final = 200
"""Requests that are turned away at once in each second."""
_HOLD_S: Final = RETRY_AFTER_S
_MOST_HELD: Final = 4096
_MOST_BYTES: Final = 64 * 1024 * 1024
"""Of all requests that wait or are held. Beyond it they are turned away at once: what they take of the memory has a bound."""


class PendingConnection(Protocol):
    """One whose next request is here, in part or whole, and has not been parsed."""

    def admit(self) -> bool:
        """Parse and serve it. Says whether it has taken the place: it has not where its head is not whole, or is none."""
        ...

    def reject(self) -> None:
        """Parse it and answer that there is no place."""
        ...


class _Line:
    """First come, first served, and nobody longer than `longest_s`: then `on_over` is called. One timer for all."""

    __slots__ = ("_longest_s", "_loop", "_on_over", "_timer", "_until")

    def __init__(self, longest_s: float, on_over: Callable[[PendingConnection], None]) -> None:
        self._longest_s = longest_s
        self._on_over = on_over
        self._until: OrderedDict[PendingConnection, float] = OrderedDict()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._until)

    def add(self, connection: PendingConnection) -> None:
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        until = self._until[connection] = loop.time() + self._longest_s
        if self._timer is None:
            self._timer = loop.call_at(until, self._expire)

    def discard(self, connection: PendingConnection) -> None:
        self._until.pop(connection, None)

    def pop(self) -> PendingConnection:
        return self._until.popitem(last=False)[0]

    def _expire(self) -> None:
        assert self._loop is not None
        self._timer = None
        while self._until:
            connection, until = next(iter(self._until.items()))
            if until > self._loop.time():
                self._timer = self._loop.call_at(until, self._expire)
                return
            del self._until[connection]
            self._on_over(connection)


class Backlog:
    """Stands before `gate`: as many as may wait for it wait here, each as long as the gate lets them.

    Others are turned away: at once while they are few, and after a second when they are many. Clients that come back at once, and many do,
    would make the gateway spend its time on that; a client that waits for its answer cannot ask again.
    """

    __slots__ = ("_gate", "_held", "_quick", "_second", "_waiting", "unread_bytes")

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._waiting = _Line(gate.wait_s, self._refuse)
        self._held = _Line(_HOLD_S, _reject)
        self._quick = 0
        self._second = -1
        self.unread_bytes = 0
        """Of all connections here; they keep the account."""
        gate.attach(self)

    def __len__(self) -> int:
        """How many wait for a place."""
        return len(self._waiting)

    def must_wait(self, data: bytes) -> bool:
        """Whether a request that begins so has to wait: there is no place, and it is not for one of the gateway's own pages."""
        return self._gate.is_full and not _is_open(data)

    def add(self, connection: PendingConnection) -> None:
        """Let it wait, or turn it away. It hears from us once, unless it calls `discard` before."""
        if len(self._waiting) < self._gate.waiting and self.unread_bytes <= _MOST_BYTES:
            self._waiting.add(connection)
        else:
            self._refuse(connection)

    def on_more_data(self, connection: PendingConnection) -> None:
        """More has come of a request that waits or is held. It is turned away when that is too much for all together."""
        if self.unread_bytes > _MOST_BYTES:
            self.discard(connection)
            self._refuse(connection)

    def discard(self, connection: PendingConnection) -> None:
        """Its client has gone."""
        self._waiting.discard(connection)
        self._held.discard(connection)

    def serve(self) -> None:
        """Give the places that are free to those who wait longest."""
        while len(self._waiting) and self._gate.try_enter():
            if not self.admit_next():
                self._gate.bulkhead.release()

    def admit_next(self) -> bool:
        """Give the caller's place to who waits longest. Says whether anybody has taken it."""
        waiting = self._waiting
        while len(waiting):
            if waiting.pop().admit():
                self._gate.admitted += 1
                return True
        return False

    def _refuse(self, connection: PendingConnection) -> None:
        self._gate.shed += 1
        second = int(asyncio.get_running_loop().time())
        if second != self._second:
            self._second = second
            self._quick = 0
        self._quick += 1
        if self._quick <= QUICK_PER_S or len(self._held) >= _MOST_HELD or self.unread_bytes > _MOST_BYTES:
            connection.reject()
        else:
            self._held.add(connection)


def _reject(connection: PendingConnection) -> None:
    connection.reject()


def _is_open(data: bytes) -> bool:
    words = data[:_PEEK_BYTES].split(b" ", 2)
    return len(words) > 1 and words[1][1:].partition(b"?")[0].partition(b"/")[0] in _OPEN_TO_ALL
