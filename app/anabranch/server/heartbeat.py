"""A worker's end of the pipe to its supervisor: heartbeats, and messages to other workers.

A heartbeat is one byte. Anything longer is a message to other workers, which is forwarded as it is.
"""

from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Final

UP: Final = b"u"
ALIVE: Final = b"a"
DRAINING: Final = b"d"
END: Final = b"e"


class Heartbeat:
    """The worker's end of its pipe. `on_orphaned`: called once, when a send fails because the supervisor is gone."""

    def __init__(self, connection: Connection, on_orphaned: Callable[[], object] | None = None) -> None:
        self.on_orphaned = on_orphaned
        self._connection = connection
        self._is_end = False

    def up(self) -> None:
        """Report that the worker serves requests."""
        self._send(UP)

    def alive(self) -> None:
        """Report that the event loop runs. To be called about every second."""
        self._send(ALIVE)

    def draining(self) -> None:
        """Report that the worker drains. The supervisor no longer checks its heartbeats."""
        self._send(DRAINING)

    def fileno(self) -> int:
        """The pipe's file descriptor: readable when `take` may return something."""
        return self._connection.fileno()

    def take(self) -> list[bytes] | None:
        """Messages from other workers, without waiting; None when all workers are ending."""
        taken: list[bytes] = []
        try:
            while self._connection.poll():
                message = self._connection.recv_bytes()
                if message == END:
                    self._is_end = True
                else:
                    taken.append(message)
        except (EOFError, OSError):
            self._is_end = True
        return None if self._is_end else taken

    def is_end(self) -> bool:
        """Whether all workers are ending, not this one alone. All of them end when the supervisor is gone."""
        return self.take() is None

    def forward(self, message: bytes) -> None:
        """Send a message to other workers. It must be longer than one byte."""
        self._send(message)

    def _send(self, content: bytes) -> None:
        try:
            self._connection.send_bytes(content)
        except OSError:
            on_orphaned, self.on_orphaned = self.on_orphaned, None
            if on_orphaned is not None:
                on_orphaned()
