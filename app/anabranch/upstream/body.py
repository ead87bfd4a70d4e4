"""The body of a streamed response between the connection that receives it and the reader that takes it."""

import asyncio
from collections import deque
from typing import Final, Protocol

from anabranch.errors import UpstreamError

HIGH: Final = 256 * 1024
"""Bytes that may wait for the reader; beyond them the connection stops reading, so the kernel's buffers fill and the service has to wait."""
LOW: Final = 64 * 1024


class Feeder(Protocol):
    """The connection that a body comes from."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def abort(self) -> None: ...


class BodyBuffer:
    """Holds at most `HIGH` bytes, and what one read of the socket brings. One reader. `limit`: maximum bytes of the whole body."""

    __slots__ = ("_error", "_feeder", "_is_ended", "_is_paused", "_parts", "_size", "_waiter", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._feeder: Feeder | None = None
        self._parts: deque[bytes] = deque()
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None
        self._is_paused = False
        self._is_ended = False
        self._error: UpstreamError | None = None

    # ---------------------------------------------------------------------------------------------- for the connection

    def attach(self, feeder: Feeder) -> None:
        """The body will come from `feeder`."""
        self._feeder = feeder

    def append(self, data: bytes) -> None:
        """A part has arrived."""
        self._parts.append(data)
        self._size += len(data)
        self._wake()
        if self._size > HIGH and not self._is_paused and self._feeder is not None:
            self._is_paused = True
            self._feeder.pause()

    def end(self) -> None:
        """The body is complete: its connection belongs to others from now on."""
        self._is_ended = True
        self._detach()

    def fail(self, error: UpstreamError) -> None:
        """The connection is closed and no more will come."""
        self._error = error
        self._detach()

    def _detach(self) -> None:
        feeder, self._feeder = self._feeder, None
        if feeder is not None and self._is_paused and self._is_ended:
            feeder.resume()
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # -------------------------------------------------------------------------------------------------- for the reader

    async def read(self) -> bytes:
        """The next part, as soon as there is one; b"" at the end. Cancellation closes the connection.

        Raises what has ended the connection, after the parts that arrived before.
        """
        while not self._parts:
            if self._error is not None:
                raise self._error
            if self._is_ended:
                return b""
            waiter = self._waiter = asyncio.get_running_loop().create_future()
            try:
                await waiter
            except BaseException:
                self.abort()
                raise
        part = self._parts.popleft()
        self._size -= len(part)
        if self._is_paused and self._size < LOW and self._feeder is not None:
            self._is_paused = False
            self._feeder.resume()
        return part

    async def aclose(self) -> None:
        self.abort()

    def abort(self) -> None:
        """Close the connection, unless the body has come to its end: then it is somebody else's already. May be called twice."""
        feeder, self._feeder = self._feeder, None
        if feeder is not None:
            feeder.abort()
