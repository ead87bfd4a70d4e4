"""A response whose body is read as it comes, the same for every transport: time and size limits, content codings, and how it ends."""

import asyncio
from types import TracebackType
from typing import Final, Protocol, Self

from anabranch.core.exchange import StreamRule
from anabranch.errors import ConnectionLost, ResponseTooLarge, UpstreamError, UpstreamTimeout
from anabranch.upstream.encoding import Decoder

_BREATHERS: Final = 16
"""Decoding steps without result after which the event loop gets a turn."""


class Source(Protocol):
    """Where the bytes of a body come from."""

    async def read(self) -> bytes:
        """The next part, as soon as there is one; b"" at the end. Raises UpstreamError. Has closed its connection when it raises or is
        cancelled, and returned it for reuse when the body has come to its end."""
        ...

    async def aclose(self) -> None:
        """Close the connection if the body has not come to its end. May be called twice."""
        ...


class AnswerStream:
    """`status`, `headers`: as of `Answer`. The body: iterate once, or call `read`. One reader at a time. Also an async context manager.

    Its connection is used again only when the body has come to its end; closing earlier, an error or a cancelled `read` closes it. While the
    reader takes nothing, the service has to wait: a transport holds back a few hundred kilobytes (HTTP/2: up to the flow-control window).
    """

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], source: Source, rule: StreamRule) -> None:
        self.status = status
        self.headers = headers
        self._source = source
        self._rule = rule
        self._received = 0
        self._is_ended = False
        self._failure: UpstreamError | None = None
        coding = b",".join(value for name, value in headers if name == b"content-encoding") if rule.is_decoded else b""
        self._decoder = Decoder(coding, rule.max_bytes) if coding else None

    def header(self, name: bytes) -> bytes | None:
        """The first value of `name` (lower case), or None."""
        return next((value for key, value in self.headers if key == name), None)

    async def read(self) -> bytes:
        """The next part of the body, never empty; b"" at the end.

        Raises UpstreamTimeout if no part arrives within the rule's `idle_timeout_s`, ConnectionLost, ProtocolError (framing or coding are
        broken), ResponseTooLarge; after that, and after `aclose`, always ConnectionLost.
        """
        if self._is_ended:
            return b""
        if self._failure is not None:
            raise self._failure
        try:
            part = await self._next()
        except BaseException as error:
            self._failure = ConnectionLost("the response was given up before it was complete", may_be_processed=True)
            if isinstance(error, UpstreamError):
                await self._source.aclose()
            raise
        self._is_ended = not part
        return part

    async def aclose(self) -> None:
        """Give the rest of the body up. May be called twice, and after the end."""
        if not self._is_ended and self._failure is None:
            self._failure = ConnectionLost("the response was given up before it was complete", may_be_processed=True)
        await self._source.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        part = await self.read()
        if not part:
            raise StopAsyncIteration
        return part

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def _next(self) -> bytes:
        decoder = self._decoder
        if decoder is None:
            return await self._receive()
        steps = 0
        while True:
            piece = decoder.step()
            if piece:
                return piece
            if piece is not None:
                steps += 1
                if steps % _BREATHERS == 0:
                    await asyncio.sleep(0)
                continue
            part = await self._receive()
            if not part:
                decoder.end()
                return b""
            decoder.push(part)

    async def _receive(self) -> bytes:
        try:
            async with asyncio.timeout(self._rule.idle_timeout_s):
                part = await self._source.read()
        except TimeoutError:
            raise UpstreamTimeout("the service stopped sending its response", may_be_processed=True) from None
        self._received += len(part)
        limit = self._rule.max_bytes
        if limit is not None and self._received > limit:
            raise ResponseTooLarge(f"the response is larger than {limit} bytes", may_be_processed=True)
        return part
