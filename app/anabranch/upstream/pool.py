"""The idle (kept-alive) connections of one address: last in, first out, bounded in number, idle time and age.

Returns only connections that are open and young enough, and closes the others. The bulkhead, not the pool, limits the connections in use.
The current time is an argument (loop time).
"""

from anabranch.plan.upstream import ConnectionPoolPlan
from anabranch.upstream.connection import Connection


class Pool:
    """Idle connections of one address. The most recently used one is taken first, so that surplus ones expire and are closed."""

    __slots__ = ("_idle", "_idle_timeout_s", "_max_idle")

    def __init__(self, settings: ConnectionPoolPlan) -> None:
        self._max_idle = settings.max_idle
        self._idle_timeout_s = settings.idle_timeout_s
        self._idle: list[Connection] = []

    def __len__(self) -> int:
        return len(self._idle)

    def take(self, now: float) -> Connection | None:
        """An idle connection that may be reused, or None. Closes expired connections that it finds."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if now < connection.idle_until:
                return connection
            connection.abort()
        return None

    def put(self, connection: Connection, now: float) -> None:
        """Keep a connection after its exchange, for as long as the settings, its age and its service allow. Closes it if that is over, or if
        the pool is full. Ignores closed ones."""
        if not connection.is_open:
            return
        until = min(now + self._idle_timeout_s, connection.expires_at)
        said = connection.keep_alive
        if said is not None:
            until = min(until, said.until(now))
            connection.keep_alive = said.after_request()
        if len(self._idle) >= self._max_idle or now >= until:
            connection.abort()
            return
        connection.idle_until = until
        self._idle.append(connection)

    def remove(self, connection: Connection) -> None:
        """Remove a connection that was closed. Ignores one that is not idle."""
        if connection in self._idle:
            self._idle.remove(connection)

    def sweep(self, now: float) -> None:
        """Close the idle connections that have expired."""
        for connection in self._idle[:]:
            if now >= connection.idle_until:
                connection.abort()
