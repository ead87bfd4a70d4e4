"""The interface of a transport, which turns one request into one response. Anything with these methods is a transport."""

from typing import Protocol

from anabranch.core.exchange import Address, Answer, Request, StreamRule
from anabranch.upstream.stream import AnswerStream


class Transport(Protocol):
    """Sends requests of one upstream. Opened before the first exchange, closed once after the last."""

    async def exchange(self, request: Request, address: Address, deadline: float) -> Answer:
        """Send `request` to `address` and read the whole response, whatever its status, by `deadline`.

        `deadline`: absolute, in seconds of the running loop's `time()`.

        Raises only children of `UpstreamError`: ConnectError and its children (nothing was sent), UpstreamTimeout, ConnectionLost,
        ProtocolError, ResponseTooLarge. `may_be_processed` is False only if no byte of the request can have reached the service.
        Cancellation closes the exchange's connection at once, so it is never reused, and affects nothing else.
        """
        ...

    async def aclose(self) -> None:
        """Close every connection. Exchanges in flight fail with ConnectionLost. May be called twice."""
        ...


class StreamTransport(Transport, Protocol):
    """A transport that also gives responses as they come. What `open_transport` builds is one."""

    async def stream(self, request: Request, address: Address, deadline: float, rule: StreamRule) -> AnswerStream:
        """Send `request` to `address` and read the head of the response, whatever its status, by `deadline`. The caller closes the stream.

        The body has no deadline: `rule` bounds its size and the wait for each part. Raises like `exchange`, and so does reading the body.
        Cancellation closes the connection.
        """
        ...
