"""CPU time of this process for one operation on a Redis or Valkey: the gateway's own client, and redis-py with its blocking pool.

`python -m bench.store_clients redis://127.0.0.1:6379` needs hiredis and redis-py. See docs/decisions/0018-own-client-of-the-store.md.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

import uvloop
from redis.asyncio import BlockingConnectionPool
from redis.asyncio import Redis as RedisPy

from anabranch.config.store import RedisURL
from anabranch.store.redis import RedisStore
from anabranch.store.settings import Place, RedisSettings

_OPERATIONS = 4000
_ROUNDS = 7

Operation = Callable[[], Awaitable[object]]


async def cpu_us(operation: Operation, clients: int) -> float:
    """Median over the rounds."""

    async def client() -> None:
        for _ in range(_OPERATIONS // clients):
            await operation()

    found = []
    for _ in range(_ROUNDS):
        started = time.process_time()
        await asyncio.gather(*(client() for _ in range(clients)))
        found.append((time.process_time() - started) / _OPERATIONS * 1e6)
    return statistics.median(found)


async def main(url: str) -> None:
    parsed = RedisURL.parse(url)
    (place,) = parsed.places(is_sentinel=False)
    async with RedisStore(RedisSettings(places=(Place(*place),), prefix=b"bench:", timeout_s=2.0)) as store:
        await store.put(b"a", bytes(900), 600)
        pool = BlockingConnectionPool.from_url(url, max_connections=16, timeout=2, socket_timeout=None, protocol=2)
        client = RedisPy(connection_pool=pool)

        async def by_redis_py() -> object:
            async with asyncio.timeout(2.0):
                return await client.get(b"bench:e:a")

        for clients in (1, 8, 64):
            ours, theirs = await cpu_us(lambda: store.get(b"a"), clients), await cpu_us(by_redis_py, clients)
            sys.stdout.write(f"{clients:3} at once: own client {ours:6.1f} us, redis-py {theirs:6.1f} us\n")
        await client.aclose()
        await pool.disconnect()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
