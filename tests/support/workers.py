"""An upstream of limited capacity: a few workers, and a queue for all further requests.

It completes every request that it has begun, even if the caller has left, so unlimited load makes it slow for every caller.
"""

import asyncio
from collections import Counter, deque
from types import TracebackType
from typing import Final, Self

from anabranch.testing.serving import LOOPBACK

_ANSWER: Final = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 15\r\n\r\n{"is": "well"}\n'


class Workers:
    """An async context manager that serves on loopback, port 0. It processes `count` requests at once, each for `service_s`.

    Both may be changed while it runs and take effect as requests end. Record: `begun`: requests started, by path; `inside`: requests in
    progress or queued; `most_inside`: its maximum (reset it to 0 to observe a later interval).
    """

    def __init__(self, *, count: int, service_s: float) -> None:
        self.count = count
        self.service_s = service_s
        self.begun: Counter[str] = Counter()
        self.inside = 0
        self.most_inside = 0
        self.port = 0
        self._busy = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, LOOPBACK, 0, backlog=4096)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        server = self._server
        assert server is not None
        server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await self._work(head.split(b" ", 2)[1].decode())
                writer.write(_ANSWER)
                await writer.drain()
        except (EOFError, ConnectionError):
            pass
        finally:
            self._serving.discard(task)
            writer.transport.abort()

    async def _work(self, path: str) -> None:
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        try:
            if self._busy < self.count:
                self._busy += 1
            else:
                turn = asyncio.get_running_loop().create_future()
                self._waiting.append(turn)
                await turn  # the request that wakes us has already counted us in `_busy`
            self.begun[path] += 1
            await asyncio.sleep(self.service_s)
            self._busy -= 1
            while self._waiting and self._busy < self.count:
                self._busy += 1
                self._waiting.popleft().set_result(None)
        finally:
            self.inside -= 1
