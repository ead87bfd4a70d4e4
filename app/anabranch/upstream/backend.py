"""The stock pool's sockets: a network backend for httpcore2 that connects by `anabranch.upstream.dial`.

httpcore2's own backend leaks a socket when a connect or a TLS handshake is cancelled at the wrong moment. This one closes every socket on
every path, and makes both transports resolve, connect and report failures alike.
"""

import asyncio
import select
import ssl
from collections.abc import Iterable
from typing import Any

import anyio
import anyio.abc
import httpcore2
from anyio.streams.tls import TLSAttribute, TLSStream

from anabranch.errors import UpstreamError
from anabranch.upstream.dial import connect
from anabranch.upstream.names import Names
from anabranch.upstream.tls import tls_error

_BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


class Backend(httpcore2.AsyncNetworkBackend):
    """TCP only. Raises httpcore2's exceptions with ours as their cause. `names`: looks up the hosts of the upstream and of its proxy."""

    def __init__(self, names: Names) -> None:
        self._names = names

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore2's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                sock = await connect(host, port, self._names)
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout from error
        except UpstreamError as error:
            raise httpcore2.ConnectError(error.detail) from error
        try:
            return Stream(await anyio.abc.SocketStream.from_socket(sock))
        except BaseException:
            sock.close()
            raise


class Stream(httpcore2.AsyncNetworkStream):
    """One connection, plain or TLS, for the stock pool."""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        try:
            async with asyncio.timeout(timeout):
                return await self._stream.receive(max_bytes)
        except TimeoutError as error:
            raise httpcore2.ReadTimeout from error
        except anyio.EndOfStream:
            return b""
        except _BROKEN as error:
            raise httpcore2.ReadError from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        if not buffer:
            return
        try:
            async with asyncio.timeout(timeout):
                await self._stream.send(buffer)
        except TimeoutError as error:
            raise httpcore2.WriteTimeout from error
        except _BROKEN as error:
            raise httpcore2.WriteError from error

    async def aclose(self) -> None:
        # The transport is closed before the first await, so cancellation is safe.
        await anyio.aclose_forcefully(self._stream)

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore2.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                return Stream(
                    await TLSStream.wrap(
                        self._stream, ssl_context=ssl_context, hostname=server_hostname, server_side=False, standard_compatible=False
                    )
                )
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await self.aclose()
            if isinstance(error, TimeoutError):
                raise httpcore2.ConnectTimeout from error
            if isinstance(error, (*_BROKEN, anyio.EndOfStream, ssl.CertificateError)):
                raise httpcore2.ConnectError from tls_error(error)
            raise

    def get_extra_info(self, info: str) -> Any:
        look_up = self._stream.extra
        if info == "ssl_object":
            return look_up(TLSAttribute.ssl_object, None)
        if info == "is_readable":
            return _is_readable(look_up(anyio.abc.SocketAttribute.raw_socket, None))
        attribute: Any = {
            "socket": anyio.abc.SocketAttribute.raw_socket,
            "client_addr": anyio.abc.SocketAttribute.local_address,
            "server_addr": anyio.abc.SocketAttribute.remote_address,
        }.get(info)
        return None if attribute is None else look_up(attribute, None)


def _is_readable(sock: Any) -> bool:
    """Whether an idle connection has received something: unexpected bytes or its end. Either way it must not be reused."""
    if sock is None or sock.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))
