"""Kept-alive connections of one address: last in, first out, bounded in number, idle time and age.

Hands out only what is open and young enough; everything else it closes. The number of connections in use is not its business: the bulkhead
limits that. Knows no HTTP. Time is passed in (loop time).
"""

from anabranch.config.model import Pool as Settings
from anabranch.upstream.connection import Connection


class Pool:
    """Idle connections of one address. The most recently used is taken first, so that surplus ones grow old and are closed."""

    __slots__ = ("_idle", "_idle_timeout_s", "_max_idle")

    def __init__(self, settings: Settings) -> None:
        self._max_idle = settings.max_idle
        self._idle_timeout_s = settings.idle_timeout_s
        self._idle: list[Connection] = []

    def __len__(self) -> int:
        return len(self._idle)

    def take(self, now: float) -> Connection | None:
        """An idle connection that may be used, or None. Those that have become too old are closed on the way."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if now - connection.idle_since < self._idle_timeout_s and now < connection.expires_at:
                return connection
            connection.abort()
        return None

    def put(self, connection: Connection, now: float) -> None:
        """Keep a connection whose exchange is over, or close it when there is no room or it is too old. Closed ones are ignored."""
        if not connection.is_open:
            return
        if len(self._idle) >= self._max_idle or now >= connection.expires_at:
            connection.abort()
            return
        connection.idle_since = now
        self._idle.append(connection)

    def forget(self, connection: Connection) -> None:
        """The peer closed it. One that is not idle is not here, and that is all right."""
        if connection in self._idle:
            self._idle.remove(connection)

    def sweep(self, now: float) -> None:
        """Close the idle connections that have become too old."""
        for connection in self._idle[:]:
            if now - connection.idle_since >= self._idle_timeout_s or now >= connection.expires_at:
                connection.abort()
