"""Ten thousand clients disconnect at every moment of a request and leave nothing behind."""

import asyncio
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final

import pytest

from anabranch.testing.scripted.record import Answers
from anabranch.testing.scripted.upstream import ScriptedUpstream
from anabranch.testing.serving import LOOPBACK
from tests.support.footprint import MIB, Footprint
from tests.support.gateway import Gateway, running_gateway
from tests.support.load import closed_loop

BATCH: Final = 250
SLOTS: Final = 64
QUEUE: Final = 1024
IDLE: Final = 16
# Allowed growth between the first batches, which fill caches and pools, and the last one.
MEMORY_BYTES: Final = 16 * MIB
_RST: Final = struct.pack("ii", 1, 0)

DOCUMENT: Final = """
version: 1
upstreams:
  slow:
    url: %s
    connect_timeout: 20s
    concurrency: {limit: %d, queue: %d}
    pool: {max_idle: %d}
  quick: {url: %s, connect_timeout: 20s, pool: {max_idle: %d}}
endpoints:
  - path: /slow
    timeout: 60s
    steps:
      slow: {upstream: slow, path: /, required: true}
      quick: {upstream: quick, path: /}
      after: {upstream: slow, path: "/{quick.name}"}
  - path: /one
    timeout: 60s
    steps:
      slow: {upstream: slow, path: /}
"""

CHAIN: Final = b"GET /slow HTTP/1.1\r\nhost: gateway\r\n\r\n"
SINGLE: Final = b"GET /one HTTP/1.1\r\nhost: gateway\r\n\r\n"


@contextmanager
def clients(port: int, count: int, request: bytes) -> Iterator[None]:
    """Connections that have sent `request`; on leaving they are closed, every third with a reset. Blocking calls: the kernel answers
    them."""
    with ExitStack() as exits:
        for number in range(count):
            sock = exits.enter_context(closing(socket.create_connection((LOOPBACK, port))))
            if number % 3 == 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
            sock.sendall(request)
        yield


async def come_and_go(gateway: Gateway, slow: ScriptedUpstream, quick: ScriptedUpstream, batches: int) -> None:
    """Each batch disconnects at another moment: before its request is read, after half a request, in the queue, or during an exchange.

    The upstreams' records are cleared after each batch, because they use memory too.
    """
    for number in range(batches):
        request = CHAIN if number % 3 == 2 else SINGLE
        match number % 5:
            case 0:
                with clients(gateway.port, BATCH, request):
                    pass
            case 1:
                with clients(gateway.port, BATCH, request[:20]):
                    await asyncio.sleep(0)
            case _:
                with clients(gateway.port, BATCH, request):
                    await slow.until(lambda upstream: len(upstream.hits) >= SLOTS, within_s=60)
        await slow.until(lambda upstream: upstream.open == 0, within_s=60)
        slow.hits.clear()
        quick.hits.clear()


@pytest.mark.parametrize(
    "count", [pytest.param(10_000), pytest.param(1_250, marks=pytest.mark.both_loops)], ids=["ten thousand", "one thousand"]
)
async def test_disconnected_clients_leave_nothing_behind(count: int, tmp_path: Path) -> None:
    well = {"json": {"name": "n"}}
    async with ScriptedUpstream({"*": well}) as slow, ScriptedUpstream({"*": well}) as quick:
        document = DOCUMENT % (slow.url, SLOTS, QUEUE, IDLE, quick.url, IDLE)
        async with running_gateway(document, tmp_path) as gateway:
            at_first = Footprint.now()

            def is_left(now: Footprint) -> bool:
                """Whether more than the idle connections is left. Each has two ends here, and a task of the scripted upstream."""
                idle = slow.open + quick.open
                return now.tasks > at_first.tasks + idle or now.descriptors > at_first.descriptors + 2 * idle

            warm = await closed_loop(gateway.port, "/slow", clients=IDLE, requests=IDLE * 2)
            assert all(reply.is_complete for reply in warm)
            slow.drop()
            slow.hits.clear()
            slow.on("*", {"hang": True})
            await come_and_go(gateway, slow, quick, 5)
            before = Footprint.now()

            await come_and_go(gateway, slow, quick, count // BATCH - 5)

            after = await Footprint.settled(lambda now: not is_left(now))
            assert not is_left(after), (at_first, after)
            assert slow.open == 0
            assert quick.open <= IDLE
            assert after.rss_bytes - before.rss_bytes < MEMORY_BYTES
            # The gateway ended every exchange that had begun.
            assert slow.aborted == slow.counts.total() - 2 * len(warm)

            # No slot is lost: the full number of requests runs at once, and all of them are answered.
            slow.on("*", {**well, "once_hit": {"slow": SLOTS}, "delay_s": 0.1})
            slow.join({"slow": slow}, Answers())
            slow.max_concurrent = 0
            again = await closed_loop(gateway.port, "/slow", clients=SLOTS * 2, requests=SLOTS * 2)
            assert all(reply.is_complete for reply in again)
            assert slow.max_concurrent == SLOTS
