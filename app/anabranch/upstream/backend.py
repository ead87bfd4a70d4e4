"""The stock pool's sockets: a network backend for httpcore2 that connects by `anabranch.upstream.dial`.

httpcore2's own backend leaks a socket when a connect or a TLS handshake is cancelled at the wrong moment. This one closes every socket on
every path, and makes both transports alike in how they resolve, connect, report failures, read HTTP/1.1 and decide on reuse.
"""

import asyncio
import socket
import ssl
from collections.abc import Iterable
from time import monotonic
from typing import Any

import httpcore2

from anabranch.errors import ConnectionLost, ConnectTimeout, UpstreamError
from anabranch.upstream.channel import Channel
from anabranch.upstream.checked import ResponseCheck
from anabranch.upstream.dial import connect
from anabranch.upstream.names import Names
from anabranch.upstream.quickack import acknowledge
from anabranch.upstream.tls import tls_error


class Backend(httpcore2.AsyncNetworkBackend):
    """TCP only. Raises httpcore2's exceptions with ours as their argument, since the pool drops the cause of what it raises again.

    `names`: looks up the hosts of the upstream and of its proxy. `max_age_s`: age at which an HTTP/1.1 connection is not used again.
    """

    def __init__(self, names: Names, *, max_age_s: float) -> None:
        self._names = names
        self._max_age_s = max_age_s

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore2's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        expires_at = monotonic() + self._max_age_s
        try:
            async with asyncio.timeout(timeout):
                sock = await connect(host, port, self._names)
        except TimeoutError:
            what = "the service's host name was not resolved" if self._names.is_pending(host) else "the service did not accept a connection"
            raise httpcore2.ConnectTimeout(ConnectTimeout(f"{what} in time")) from None
        except UpstreamError as error:
            raise httpcore2.ConnectError(error) from error
        return Stream(sock, expires_at=expires_at)


class Stream(httpcore2.AsyncNetworkStream):
    """One connection, plain or TLS, for the stock pool. Every HTTP/1.1 response is read by a `ResponseCheck` first.

    `sock`: connected; the stream closes it. `expires_at`: time from which an HTTP/1.1 connection is not used again. `channel`: of a
    connection that has carried something already.
    """

    def __init__(self, sock: socket.socket, *, expires_at: float, channel: Channel | None = None) -> None:
        self._socket = sock
        self._expires_at = self._idle_until = expires_at
        self._channel = channel
        tls = self._ssl_object()
        self._check = None if tls is not None and tls.selected_alpn_protocol() == "h2" else ResponseCheck()
        self._is_answered = True
        self._shown = b""

    # --------------------------------------------------------------------------------------------------------- reading

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        channel = await self._connected()
        try:
            async with asyncio.timeout(timeout):
                while not self._shown and (data := await channel.read()):
                    self._look_at(data)
        except TimeoutError as error:
            raise httpcore2.ReadTimeout from error
        except OSError as error:
            raise httpcore2.ReadError from error
        shown, self._shown = self._shown, b""
        return shown

    def _look_at(self, data: bytes) -> None:
        """Check received bytes, and add what the pool may see of them to `_shown`. Raises RemoteProtocolError."""
        self._is_answered = True
        check = self._check
        if check is None:
            self._shown += data
            acknowledge(self._socket)
            return
        try:
            self._shown += check.feed(data)
        except UpstreamError as error:
            raise httpcore2.RemoteProtocolError(error) from error
        if not check.is_complete:
            acknowledge(self._socket)
        elif check.keep_alive is not None:
            self._idle_until = min(check.keep_alive.until(monotonic()), self._expires_at)
            check.keep_alive = check.keep_alive.after_request()

    # --------------------------------------------------------------------------------------------------------- writing

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        if not buffer:
            return
        channel = await self._connected()
        check = self._check
        if check is not None and self._is_answered:
            self._is_answered = False
            check.begin(buffer)
            if channel.has_data:
                channel.abort()  # nobody has asked for it, so it must not become the response to this request
        elif check is None and channel.is_ended:
            # The pool does not look whether a kept HTTP/2 connection has been closed.
            raise httpcore2.WriteError(ConnectionLost("the service closed the connection before the request was sent"))
        try:
            async with asyncio.timeout(timeout):
                is_sent = await channel.write(buffer)
                while not is_sent:
                    if check is None:
                        return  # the pool reads, and the rest is sent meanwhile
                    self._look_at(await channel.read())
                    if check.has_head:
                        # RFC 9112 section 9.5: the service responds before it has the whole request, and may read no further.
                        # On WriteError the pool reads the response, and closes the connection behind it.
                        raise httpcore2.WriteError("the service responded before it had the whole request")
                    is_sent = await channel.write(b"")
        except TimeoutError as error:
            raise httpcore2.WriteTimeout from error
        except OSError as error:
            raise httpcore2.WriteError from error

    # ------------------------------------------------------------------------------------------------- opening, closing

    async def _connected(self) -> Channel:
        channel = self._channel
        if channel is None:
            channel = self._channel = Channel()
            try:
                await asyncio.get_running_loop().create_connection(lambda: channel, sock=self._socket)
            except BaseException:
                self._discard()
                raise
        return channel

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore2.AsyncNetworkStream:
        loop = asyncio.get_running_loop()
        channel = self._channel
        try:
            async with asyncio.timeout(timeout):
                if channel is None:
                    channel = self._channel = Channel()
                    await loop.create_connection(lambda: channel, sock=self._socket, ssl=ssl_context, server_hostname=server_hostname)
                else:
                    assert channel.transport is not None
                    # Behind a proxy: the tunnel is open, and nothing has come through it yet.
                    channel.transport = await loop.start_tls(channel.transport, channel, ssl_context, server_hostname=server_hostname)
            return Stream(self._socket, expires_at=self._expires_at, channel=channel)
        except BaseException as error:
            self._discard()
            if isinstance(error, TimeoutError):
                raise httpcore2.ConnectTimeout from error
            if isinstance(error, (OSError, EOFError, ssl.CertificateError)):
                raise httpcore2.ConnectError(tls_error(error)) from error
            raise

    def _discard(self) -> None:
        """Close a connection that did not come up. uvloop may have created its transport already, and may never say that it is closed."""
        if self._channel is not None:
            self._channel.abort()
        self._socket.close()

    async def aclose(self) -> None:
        # Nothing is awaited, so cancellation is safe.
        if self._channel is None:
            self._socket.close()
        else:
            self._channel.abort()

    # ---------------------------------------------------------------------------------------------------------- asking

    def _ssl_object(self) -> ssl.SSLObject | None:
        transport = None if self._channel is None else self._channel.transport
        return None if transport is None else transport.get_extra_info("ssl_object")

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object":
            return self._ssl_object()
        if info == "is_readable":
            return self._is_spent()
        return None

    def _is_spent(self) -> bool:
        """Whether an idle connection must not be used again: the pool asks by `is_readable`, for HTTP/1.1 only, and then closes it.

        By its age, by what its service has said, or because it has received something: unexpected bytes or its end.
        """
        channel = self._channel
        if channel is None or channel.is_ended or channel.has_data or monotonic() >= self._idle_until:
            return True
        return self._check is not None and not self._check.is_reusable
