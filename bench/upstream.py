"""The services behind every gateway: one process, ten ports, prepared answers. About 10 us a request.

It speaks just enough HTTP/1.1 for well-behaved clients: requests without a body, keep-alive, pipelining. `/delay/50ms/...` answers after 50
ms, `/flaky/...` delays each answer by a second with a probability of 1%, `/-/counts` reports the number of flaky requests.

`python -m bench.upstream` prints its ports as one line of JSON and runs until it is terminated.
"""

import asyncio
import gc
import json
import random
import socket
from collections import Counter
from typing import Final, cast

import uvloop

from bench import bodies, cases

_HEAD: Final = b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
_COUNTS: Final = b"/-/counts"


def response(status: int, reason: bytes, body: bytes) -> bytes:
    """The bytes of a complete response."""
    return _HEAD % (status, reason, len(body)) + body


class Services:
    """The prepared answers, and a count of requests. `slow`: decides at random whether a flaky answer is late."""

    def __init__(self, slow: random.Random) -> None:
        self.ready = {path.encode(): response(200, b"OK", bodies.encode(value)) for path, value in cases.documents().items()}
        self.missing = response(404, b"Not Found", b'{"error":"no such path"}')
        self.slow = slow
        self.flaky = 0
        self.counts: Counter[str] = Counter()

    def delay_s(self, path: bytes) -> tuple[float, bytes]:
        """The delay of the answer to `path`, and the path whose body is used."""
        if path.startswith(b"/delay/50ms/"):
            return cases.DELAY_S, path[11:]
        if path.startswith(b"/flaky/"):
            self.flaky += 1
            return cases.SLOW_S if self.slow.random() < cases.SLOW_SHARE else 0.0, path[6:]
        return 0.0, path

    def answer(self, path: bytes) -> bytes:
        """The response to `path`."""
        if path == _COUNTS:
            return response(200, b"OK", json.dumps({"flaky": self.flaky}).encode())
        return self.ready.get(path, self.missing)


class Server(asyncio.Protocol):
    """One connection. Late answers stay in order because no client here pipelines behind them."""

    __slots__ = ("_loop", "_rest", "_services", "_transport")

    def __init__(self, services: Services, loop: asyncio.AbstractEventLoop) -> None:
        self._services = services
        self._loop = loop
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        while (end := data.find(b"\r\n\r\n")) >= 0:
            start = data.find(b" ") + 1
            self._respond(data[start : data.find(b" ", start)])
            data = data[end + 4 :]
        self._rest = data

    def _respond(self, path: bytes) -> None:
        services = self._services
        ready = services.ready.get(path)
        if ready is not None:
            self._write(ready)
            return
        delay_s, path = services.delay_s(path)
        if delay_s:
            self._loop.call_later(delay_s, self._write, services.answer(path))
        else:
            self._write(services.answer(path))

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None


def listen() -> socket.socket:
    """A listening socket on a free loopback port."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    sock.listen(4096)
    return sock


async def serve() -> None:
    """Open the ports, print them and answer until cancelled."""
    loop = asyncio.get_running_loop()
    services = Services(random.Random(20_26))
    sockets = [listen() for _ in range(cases.SERVICES)]
    servers = [await loop.create_server(lambda: Server(services, loop), sock=sock, backlog=4096) for sock in sockets]
    gc.collect()
    gc.freeze()
    print(json.dumps([sock.getsockname()[1] for sock in sockets]), flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    uvloop.run(serve())
