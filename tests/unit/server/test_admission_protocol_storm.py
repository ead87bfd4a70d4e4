"""Many concurrent clients at a low concurrency limit, with split and pipelined requests: each gets one answer, in order, and no slot is
lost."""

import asyncio
from random import Random

import pytest

from anabranch.server import backlog as module
from tests.support.head_server import PATIENCE_S, HeadServer, answer
from tests.unit.server.test_admission_protocol import full, until

_CLIENTS = 12
_ROUNDS = 12


class Client:
    """A client whose body lengths are unique and returned in the answers; it never uses a path twice."""

    def __init__(self, number: int) -> None:
        self._random = Random(number)
        self._number = number
        self._asked = 0
        self.answered: dict[str, bytes] = {}
        """Status by path."""

    async def run(self, server: HeadServer) -> None:
        async with server.connected() as (reader, writer):
            for _ in range(_ROUNDS):
                await self._ask(reader, writer, self._random.choice((1, 1, 2, 4)))
            while await self._ask(reader, writer, 1) != b"200":
                await asyncio.sleep(0.02)

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: int) -> bytes:
        """Send `count` requests at once, read their answers, and return the status of the last."""
        requests = [self._request() for _ in range(count)]
        data = b"".join(raw for _, _, raw in requests)
        sending = asyncio.ensure_future(self._send(writer, data))
        status = b""
        for path, length, _ in requests:
            head, _, body = (await answer(reader)).partition(b"\r\n\r\n")
            status = head[9:12]
            assert status == b"503" or (status, body) == (b"200", b"%d" % length), (path, head, body)
            self.answered[path] = status
        await sending
        return status

    def _request(self) -> tuple[str, int, bytes]:
        self._asked += 1
        path, length = f"/{self._number}/{self._asked}", 100 * self._asked + self._number
        body = (b"GET / HTTP/1.1\r\n\r\n" * length)[:length]
        if self._random.random() < 0.5:
            return path, length, b"POST %b HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), length, body)
        chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (length, body)
        return path, length, b"\r\nPUT %b HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n%b" % (path.encode(), chunked)

    async def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        while data:
            size = self._random.choice((1, 3, 30, 300, len(data)))
            writer.write(data[:size])
            data = data[size:]
            await asyncio.sleep(self._random.choice((0, 0, 0.001)))


async def test_each_request_gets_one_answer_in_order_and_no_slot_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUICK_PER_S", 20)
    monkeypatch.setattr(module, "_HOLD_S", 0.02)
    clients = [Client(number) for number in range(_CLIENTS)]
    async with full(waiting=4, wait_s=0.01) as (server, gate):
        running = [asyncio.ensure_future(client.run(server)) for client in clients]
        await until(lambda: gate.shed >= 2 * _CLIENTS)
        assert server.app.seen == []
        server.app.gate.set()
        async with asyncio.timeout(2 * PATIENCE_S):
            await asyncio.gather(*running)
        await until(lambda: not gate.bulkhead.in_use)
        assert gate.queued == 0
        served = [path for client in clients for path, status in client.answered.items() if status == b"200"]
        assert sorted(path for path in server.app.seen if path != "/gated") == sorted(served)
