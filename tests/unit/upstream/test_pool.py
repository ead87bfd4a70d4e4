"""The pool of idle connections, with time as an argument."""

import asyncio
from typing import Any, cast

import pytest

from anabranch.plan.upstream import ConnectionPoolPlan
from anabranch.upstream.connection import Connection
from anabranch.upstream.keep_alive import KeepAlive
from anabranch.upstream.pool import Pool


class Fake:
    """The part of a connection that the pool uses. Notifies the pool when it is closed, like a real one."""

    def __init__(self, pool: Pool, expires_at: float = 1000.0) -> None:
        self.pool = pool
        self.is_open = True
        self.idle_until = 0.0
        self.expires_at = expires_at
        self.keep_alive: KeepAlive | None = None

    def abort(self) -> None:
        self.is_open = False
        self.pool.remove(cast("Connection", self))


def make(*, max_idle: int = 3) -> Pool:
    return Pool(ConnectionPoolPlan(max_idle=max_idle, idle_timeout_s=10.0, max_age_s=300.0))


def put(pool: Pool, now: float, **options: Any) -> Fake:
    fake = Fake(pool, **options)
    pool.put(cast("Connection", fake), now)
    return fake


def test_most_recently_used_connection_is_reused_first() -> None:
    pool = make()
    first, second = put(pool, 0.0), put(pool, 1.0)
    assert pool.take(2.0) is cast("Any", second)
    assert pool.take(2.0) is cast("Any", first)
    assert pool.take(2.0) is None


def test_connections_beyond_the_limit_are_closed() -> None:
    pool = make()
    fakes = [put(pool, 0.0) for _ in range(5)]
    assert [fake.is_open for fake in fakes] == [True, True, True, False, False]


def test_connection_idle_for_too_long_is_closed_at_checkout() -> None:
    pool = make()
    old = put(pool, 0.0)
    assert pool.take(10.0) is None
    assert not old.is_open


def test_connection_that_is_too_old_is_neither_kept_nor_reused() -> None:
    pool = make()
    aging = put(pool, 0.0, expires_at=5.0)
    late = put(pool, 6.0, expires_at=5.0)
    assert pool.take(5.0) is None
    assert not aging.is_open
    assert not late.is_open


def test_sweep_closes_only_connections_that_are_too_old() -> None:
    pool = make()
    old, aged, young = put(pool, 0.0), put(pool, 5.0, expires_at=8.0), put(pool, 5.0)
    pool.sweep(10.0)
    assert [fake.is_open for fake in (old, aged, young)] == [False, False, True]
    assert len(pool) == 1


def test_closed_connection_is_not_kept() -> None:
    pool = make()
    fake = Fake(pool)
    fake.abort()
    pool.put(cast("Connection", fake), 0.0)
    assert len(pool) == 0


@pytest.mark.parametrize("max_idle", [0])
def test_limit_of_zero_keeps_no_connection(max_idle: int) -> None:
    pool = make(max_idle=max_idle)
    assert not put(pool, 0.0).is_open


async def test_real_connections_notify_the_pool() -> None:
    pool = make()

    class Owner:
        def opened(self, connection: Connection) -> None: ...

        def released(self, connection: Connection) -> None: ...

        def closed(self, connection: Connection) -> None:
            pool.remove(connection)

        def gone(self, connection: Connection) -> None: ...

    class Wire(asyncio.Transport):
        def abort(self) -> None: ...

    connection = Connection(Owner(), max_response=1, expires_at=1000.0)
    connection.connection_made(Wire())
    pool.put(connection, 0.0)
    connection.eof_received()
    assert len(pool) == 0
