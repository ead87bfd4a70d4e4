"""Opens a connection to an address: name resolution, Happy Eyeballs, TCP, the TLS handshake.

Not on the hot path. Sets no timeout: the caller bounds `dial` and may cancel it at any point, and then every socket and task that it
opened is closed. Uses nothing of the event loop that looks names up: uvloop's `sock_connect` sends even a literal address through the
threads that all look-ups share.
"""

import asyncio
import errno
import os
import socket
import ssl
from typing import Final

from anabranch.core.exchange import Address
from anabranch.errors import ConnectError, ConnectTimeout
from anabranch.upstream.connection import Connection
from anabranch.upstream.names import Names, SocketAddress
from anabranch.upstream.tls import tls_error

# RFC 8305 section 5: the recommended Connection Attempt Delay.
ATTEMPT_DELAY_S: Final = 0.25

_TIMEOUTS: Final = frozenset({errno.ETIMEDOUT})


async def dial(
    address: Address, connection: Connection, *, names: Names, context: ssl.SSLContext | None = None, server_name: str | None = None
) -> None:
    """Connect `connection` to `address`, including the TLS handshake if there is a `context`.

    `names`: looks up the host. `server_name`: sent by SNI and verified instead of the address's host.
    Raises ResolveError, ConnectError, ConnectTimeout (timeout of the kernel), TLSError. Cancellation closes the socket.
    """
    loop = asyncio.get_running_loop()
    sock = await connect(address.ip or address.lookup_name, address.port, names)
    connection.socket = sock
    try:
        if context is None:
            await loop.create_connection(lambda: connection, sock=sock)
        else:
            await loop.create_connection(lambda: connection, sock=sock, ssl=context, server_hostname=server_name or address.host)
    except (ssl.CertificateError, OSError, EOFError) as error:
        connection.discard()
        sock.close()
        raise tls_error(error) from error
    except BaseException:
        # uvloop may have created the transport already and may never call `connection_lost`.
        connection.discard()
        sock.close()
        raise


async def _resolve(host: str, port: int, names: Names) -> list[SocketAddress]:
    """Socket addresses to try, alternating between the families (RFC 8305 section 4)."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return [(family, (host, port) if family == socket.AF_INET else (host, port, 0, 0))]
    return _interleave([(family, (place[0], port, *place[2:])) for family, place in await names.look_up(host)])


def _interleave(endpoints: list[SocketAddress]) -> list[SocketAddress]:
    first = [endpoint for endpoint in endpoints if endpoint[0] == endpoints[0][0]]
    other = [endpoint for endpoint in endpoints if endpoint[0] != endpoints[0][0]]
    mixed = [endpoint for pair in zip(first, other, strict=False) for endpoint in pair]
    shorter = min(len(first), len(other))
    return mixed + first[shorter:] + other[shorter:]


async def connect(host: str, port: int, names: Names) -> socket.socket:
    """A connected, non-blocking socket, owned by the caller. Raises ResolveError, ConnectError, ConnectTimeout."""
    endpoints = await _resolve(host, port, names)
    if len(endpoints) > 1:
        return await _race(endpoints)
    try:
        return await _open(endpoints[0])
    except OSError as error:
        raise _connect_error([error]) from error


async def _race(endpoints: list[SocketAddress]) -> socket.socket:
    """The first socket that connects. The next attempt starts when the previous one has failed, or after `ATTEMPT_DELAY_S`."""
    untried = list(reversed(endpoints))
    running: set[asyncio.Task[None]] = set()
    opened: list[socket.socket] = []
    errors: list[OSError] = []
    winner: socket.socket | None = None

    async def attempt(endpoint: SocketAddress) -> None:
        try:
            opened.append(await _open(endpoint))
        except OSError as error:
            errors.append(error)

    try:
        while not opened and (untried or running):
            if untried:
                running.add(asyncio.create_task(attempt(untried.pop())))
            delay = ATTEMPT_DELAY_S if untried else None
            _, running = await asyncio.wait(running, timeout=delay, return_when=asyncio.FIRST_COMPLETED)
        winner = opened[0] if opened else None
    finally:
        # An attempt adds its socket to `opened` before its task ends, so no socket is lost in between.
        for task in running:
            task.cancel()
        for sock in opened:
            if sock is not winner:
                sock.close()
    if winner is None:
        raise _connect_error(errors) from errors[-1]
    # The cancelled attempts close their sockets in the next loop iteration. If the caller is cancelled here, the winner is closed too.
    try:
        await asyncio.gather(*running, return_exceptions=True)
    except BaseException:
        winner.close()
        raise
    return winner


async def _open(endpoint: SocketAddress) -> socket.socket:
    sock = socket.socket(endpoint[0], socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        # Requests are written whole, so Nagle's algorithm would only add latency.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await _connect(sock, endpoint[1])
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect(sock: socket.socket, place: tuple[str, int] | tuple[str, int, int, int]) -> None:
    """Connect a non-blocking socket to a literal address. Raises OSError."""
    error = sock.connect_ex(place)
    if error == errno.EINPROGRESS:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        loop.add_writer(sock, _end, ended)
        try:
            await ended
        finally:
            loop.remove_writer(sock)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))


def _end(ended: "asyncio.Future[None]") -> None:
    if not ended.done():
        ended.set_result(None)


def _connect_error(errors: list[OSError]) -> ConnectError:
    """The error for failed attempts: by the last one that is not a kernel timeout, if any. Names no address."""
    if all(error.errno in _TIMEOUTS for error in errors):
        return ConnectTimeout("the service did not accept a connection in time")
    number = next(error.errno for error in reversed(errors) if error.errno not in _TIMEOUTS)
    if number == errno.ECONNREFUSED:
        return ConnectError("the service refused the connection")
    return ConnectError(f"the service could not be reached: {os.strerror(number).lower() if number else 'unknown reason'}")
