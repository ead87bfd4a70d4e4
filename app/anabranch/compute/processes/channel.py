"""The gateway's end of one worker process: a socket and an arena that both share, and one job at a time over them."""

import asyncio
import io
import os
import socket
from typing import Final

from anabranch.compute.call import JobReply, ReplyKind
from anabranch.compute.job import Job
from anabranch.compute.processes.frame import ARENA_FROM, JOB, READY, REPLY, make_arena

# Copied at once, in about 0.2 ms. Larger payloads are copied in pieces, and the event loop runs in between.
_PIECE_BYTES: Final = 1 << 20
# Memory that an arena keeps for the next job, since allocating new memory costs as much as copying. The rest is freed.
_KEPT_BYTES: Final = 16 << 20


class WorkerGone(Exception):
    """The worker has closed its end of the socket."""


class WorkerChannel:
    """`number`: identifies the worker to the fork server. `jobs`: how many it has completed. `resident_bytes`: its memory after the last job.

    `is_dead`: the worker has ended or is to be replaced. `exit_code`: set once it is known. `worker_socket`: the worker's end, until it is forked.
    """

    __slots__ = ("_arena", "_arena_bytes", "_socket", "exit_code", "is_dead", "jobs", "number", "resident_bytes", "worker_socket")

    def __init__(self, number: int) -> None:
        self.number = number
        self.jobs = 0
        self.resident_bytes = 0
        self.is_dead = False
        self.exit_code: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._arena = make_arena()
        self._arena_bytes = 0
        try:
            self._socket, self.worker_socket = socket.socketpair()
        except OSError:
            os.close(self._arena)
            raise
        self._socket.setblocking(False)

    @property
    def arena(self) -> int:
        return self._arena

    @property
    def is_gone(self) -> bool:
        """Whether a free worker has closed its end. Detects its death before the fork server reports it."""
        try:
            return not self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    async def ready(self) -> None:
        """Wait until the worker can take jobs. Raises WorkerGone."""
        if await self._receive(len(READY)) != READY:
            raise WorkerGone

    async def run(self, job: Job) -> JobReply:
        """Send a job and await its reply. Raises WorkerGone. After an exception or a cancellation the worker must not be used again."""
        name, order = job.hook.encode(), job.order.encode()
        size = len(job.input)
        loop = asyncio.get_running_loop()
        is_in_arena = size > ARENA_FROM
        if is_in_arena:
            await self._fill(job.input)
        head = JOB.pack(is_in_arena, len(name), len(order), size) + name + order
        try:
            await loop.sock_sendall(self._socket, head if is_in_arena else head + job.input)
        except OSError:
            raise WorkerGone from None
        kind, is_in_arena, self.resident_bytes, size = REPLY.unpack(await self._receive(REPLY.size))
        payload = await self._drain(size) if is_in_arena else await self._receive(size)
        self._shrink()
        self.jobs += 1
        return JobReply(ReplyKind(kind), payload)

    def hang_up(self) -> None:
        """Shut the socket down, so that a pending `run` or `ready` raises WorkerGone."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def close(self) -> None:
        self._socket.close()
        self.worker_socket.close()
        os.close(self._arena)

    async def _receive(self, size: int) -> bytes:
        if not size:
            return b""
        loop = asyncio.get_running_loop()
        content = b""
        while len(content) < size:
            try:
                part = await loop.sock_recv(self._socket, size - len(content))
            except OSError:
                raise WorkerGone from None
            if not part:
                raise WorkerGone
            content += part
        return content

    async def _fill(self, payload: bytes) -> None:
        view = memoryview(payload)
        offset = 0
        while offset < len(view):
            offset += os.pwrite(self._arena, view[offset : offset + _PIECE_BYTES], offset)
            if offset < len(view):
                await asyncio.sleep(0)
        self._arena_bytes = max(self._arena_bytes, len(view))

    async def _drain(self, size: int) -> bytes:
        self._arena_bytes = max(self._arena_bytes, size)
        if size <= _PIECE_BYTES:
            return os.pread(self._arena, size, 0)
        content = io.BytesIO()
        offset = 0
        while offset < size:
            part = os.pread(self._arena, min(_PIECE_BYTES, size - offset), offset)
            if not part:
                raise WorkerGone
            offset += content.write(part)
            if offset < size:
                await asyncio.sleep(0)
        return content.getvalue()

    def _shrink(self) -> None:
        """Free the memory of an arena that has become large."""
        if self._arena_bytes > _KEPT_BYTES:
            os.ftruncate(self._arena, 0)
            self._arena_bytes = 0
