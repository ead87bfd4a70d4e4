"""The bytes of one connection of the stock pool: what has arrived and was not read yet, and what is still to be sent.

An `asyncio.Protocol` below the pool, which itself reads and writes. Nothing is lost when a read or a write is cancelled, and nothing that
arrives between two responses stays unseen: the loop decrypts and delivers it at once.
"""

import asyncio
from collections import deque
from typing import Final

HIGH: Final = 256 * 1024
"""Bytes that may wait to be read; beyond them nothing more is received."""


class Channel(asyncio.Protocol):
    """`transport`: None until it is connected. `is_ended`: nothing more will arrive. `error`: why, if the connection broke."""

    __slots__ = ("_is_discarded", "_is_full", "_is_paused", "_parts", "_size", "_waiters", "error", "is_ended", "transport")

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.is_ended = False
        self.error: Exception | None = None
        self._parts: deque[bytes] = deque()
        self._size = 0
        self._is_paused = False  # receiving: too much waits to be read
        self._is_full = False  # sending: the peer takes no more
        self._is_discarded = False
        self._waiters: set[asyncio.Future[None]] = set()

    @property
    def has_data(self) -> bool:
        """Whether something waits to be read."""
        return bool(self._parts)

    async def read(self) -> bytes:
        """What has arrived, as soon as there is something; b"" at the end. Raises what broke the connection."""
        while not self._parts:
            if self.error is not None:
                raise self.error
            if self.is_ended:
                return b""
            await self._changed()
        part = self._parts.popleft()
        self._size -= len(part)
        if self._is_paused and self._size < HIGH and self.transport is not None:
            self._is_paused = False
            self.transport.resume_reading()
        return part

    async def write(self, data: bytes) -> bool:
        """Send `data`. Returns when the peer has taken nearly all of it, or False as soon as something has arrived meanwhile.

        Raises what broke the connection, or ConnectionError if the peer has closed it.
        """
        if data:
            self._check_open()
            assert self.transport is not None
            self.transport.write(data)
        while self._is_full:
            if self._parts:
                return False
            await self._changed()
            self._check_open()
        return True

    def _check_open(self) -> None:
        if self.error is not None:
            raise self.error
        if self.is_ended or self.transport is None or self.transport.is_closing():
            raise ConnectionResetError("the connection is closed")

    def abort(self) -> None:
        """Close at once, and drop what has arrived. May be called twice, and before the connection is made."""
        self._is_discarded = True
        self.is_ended = True
        self._parts.clear()
        if self.transport is not None:
            self.transport.abort()
        self._wake()

    async def _changed(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    # ------------------------------------------------------------------------------------------------- socket callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        if self._is_discarded:
            transport.close()

    def data_received(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        if self._size >= HIGH and not self._is_paused and self.transport is not None:
            self._is_paused = True
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self.is_ended = True
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_ended = True
        self.error = error
        self._is_full = False
        self._wake()

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        self._wake()
