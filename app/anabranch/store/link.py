"""One connection to a Redis or Valkey. The only module that imports hiredis (extra `redis`).

Commands are pipelined: each is written at once, and replies are matched by their order. So a cancelled command cannot leave its reply to the next one: it
keeps its place in the order, and its reply is dropped.

**Source:** RESP2, the Redis serialization protocol; docs/decisions/0018-own-client-of-the-store.md.
"""

import asyncio
import re
import ssl
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Final, TypeVar, cast

import hiredis

from anabranch.store.seam import StoreAway
from anabranch.store.settings import Place

T = TypeVar("T", bound=asyncio.Protocol)

Argument = bytes | str | int

TOO_MANY_CLIENTS: Final = "MAXCLIENTS"
"""The code given to this reply, which has none of its own."""
_TOO_MANY: Final = "ERR max number of clients"
_IN_SCRIPT: Final = re.compile(r"^ERR Error running script .*-([A-Z]+) ")
_INCOMPLETE: Final = object()
# A timer that fires later than this was kept waiting by the loop: replies may have come, and only have to be read.
_LATE_S: Final = 0.002


class Lost(StoreAway):
    """A command has no reply: the connection is lost, or the reply did not come in time. `reason`: a sentence without the server's address."""

    def __init__(self, reason: str) -> None:
        super().__init__("the shared store did not answer")
        self.reason = reason


class Refused(Exception):
    """An error reply. `code`: its first word, such as NOSCRIPT; that of the command if it failed in a script. The message comes from the server and may quote what
    was sent."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        # Redis 6: ERR Error running script (call to f_...): @user_script:4: -READONLY You can't write ...
        in_script = _IN_SCRIPT.search(message)
        if in_script is not None:
            self.code = in_script[1]
        elif message.startswith(_TOO_MANY):
            self.code = TOO_MANY_CLIENTS
        else:
            self.code = message.partition(" ")[0]


class Link(asyncio.Protocol):
    """`timeout_s`: for each reply; when one is late the connection is closed, and all its commands fail, as a server that does not answer the oldest command
    answers no later one. `on_end`: called once with the reason when the connection has ended for any reason but `close`.
    """

    def __init__(self, timeout_s: float, on_end: Callable[["Link", str], None]) -> None:
        self.pending: deque[tuple[asyncio.Future[Any], float]] = deque()
        self.opened_at = monotonic()
        self._timeout_s = timeout_s
        self._on_end: Callable[[Link, str], None] | None = on_end
        self._reason: str | None = None
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(replyError=Refused, notEnoughData=_INCOMPLETE)
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._transport: asyncio.Transport

    @property
    def is_open(self) -> bool:
        return self._reason is None

    def send(self, *command: Argument) -> "asyncio.Future[Any]":
        """Send a command. The future has its reply (Refused is one, and is not raised), or raises Lost: within the timeout, and at once when the connection has
        ended."""
        future: asyncio.Future[Any] = self._loop.create_future()
        if self._reason is not None:
            _fail(future, self._reason)
            return future
        due = monotonic() + self._timeout_s
        self.pending.append((future, due))
        if self._timer is None:
            self._wake_at(due)
        self._transport.write(hiredis.pack_command(command))  # type: ignore[arg-type]  # declared as a tuple of one
        return future

    def allow(self, timeout_s: float) -> None:
        """Change the timeout, while no command is in flight."""
        assert not self.pending
        self._timeout_s = timeout_s
        self._stop_timer()

    def close(self) -> None:
        """Close the connection at once."""
        self._on_end = None
        self._end("it was closed")

    def fail(self, reason: str) -> None:
        """Close the connection at once, because of the server."""
        self._end(reason)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not _INCOMPLETE:
                self._receive(reply)
        except hiredis.ProtocolError:
            self._end("it does not speak the protocol of Redis")
        except IndexError:
            self._end("it sent a reply without a command")

    def eof_received(self) -> None:
        self._end("it closed the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        self._end("the connection was lost")

    def _receive(self, reply: Any) -> None:
        future, _ = self.pending.popleft()
        if not future.done():
            future.set_result(reply)

    def _wake_at(self, due: float) -> None:
        self._due = due
        self._timer = self._loop.call_later(max(due - monotonic(), 0.0), self._look)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """Close the connection if the oldest command is late."""
        self._timer = None
        if not self.pending:
            return
        now, oldest = monotonic(), self.pending[0][1]
        if now < oldest:
            self._wake_at(oldest)
        elif now - self._due > _LATE_S:
            self._wake_at(now + _LATE_S / 2)
        else:
            self._end("it did not answer in time")

    def _end(self, reason: str) -> None:
        if self._reason is not None:
            return
        self._reason = reason
        self._transport.abort()
        self._stop_timer()
        while self.pending:
            future, _ = self.pending.popleft()
            if not future.done():
                _fail(future, reason)
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(self, reason)


def _fail(future: "asyncio.Future[Any]", reason: str) -> None:
    future.set_exception(Lost(reason))
    future.exception()  # seen: asyncio logs those of futures that nobody awaits any more


class ListeningLink(Link):
    """Hands each message of a subscribed channel to `on_message`: the channel and the message. Other replies are those of commands."""

    def __init__(self, timeout_s: float, on_end: Callable[[Link, str], None], on_message: Callable[[bytes, bytes], None]) -> None:
        super().__init__(timeout_s, on_end)
        self._on_message = on_message

    def _receive(self, reply: Any) -> None:
        if isinstance(reply, list) and len(reply) == 3 and reply[0] == b"message":
            self._on_message(reply[1], reply[2])
        else:
            super()._receive(reply)


async def dial(place: Place, context: ssl.SSLContext | None, server_name: str | None, make: Callable[[], T]) -> T:
    """Open a connection. `context`: of TLS; None: plain. Raises Lost. Without a timeout of its own."""
    loop = asyncio.get_running_loop()
    try:
        _, protocol = await loop.create_connection(
            make, place.host, place.port, ssl=context, server_hostname=(server_name or place.host) if context is not None else None
        )
    except ssl.SSLCertVerificationError:
        raise Lost("its TLS certificate is not trusted, or is for another name") from None
    except (ssl.SSLError, ConnectionResetError, ssl.CertificateError) as error:
        raise Lost("the TLS handshake failed" if context is not None else "the connection was lost") from error
    except (OSError, UnicodeError) as error:
        raise Lost("it cannot be reached") from error  # UnicodeError: a name that cannot be one of a host
    return protocol
