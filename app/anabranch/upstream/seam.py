"""The seam under every policy: a transport turns one request into one answer. Two methods; anything that has them can stand here."""

from typing import Protocol

from anabranch.core.exchange import Address, Answer, Request


class Transport(Protocol):
    """Sends requests of one upstream. Opened before the first exchange, closed once after the last."""

    async def exchange(self, request: Request, address: Address, deadline: float) -> Answer:
        """Send `request` to `address` and read the whole answer, whatever its status, no later than `deadline`.

        `deadline`: absolute, in seconds of the running loop's `time()`.

        Raises only children of `UpstreamError`: ConnectError and its children (nothing was sent), UpstreamTimeout, ConnectionLost,
        ProtocolError, ResponseTooLarge. `may_be_processed` is False only where no byte of the request can have reached the service.
        Cancellation: the exchange's connection is closed at once and nothing else is touched; it is never handed on.
        """
        ...

    async def aclose(self) -> None:
        """Close every connection. Exchanges under way fail with ConnectionLost. May be called twice."""
        ...
