"""A worker's end of the pipe to its supervisor: signs of life, and what it has to say to other workers.

A sign is one byte; anything longer is a message for others, which nobody here looks into.
"""

from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Final

UP: Final = b"u"
ALIVE: Final = b"a"
DRAINING: Final = b"d"
END: Final = b"e"


class Heartbeat:
    """The worker's end of its pipe. `on_orphaned` is called when nobody listens any more."""

    def __init__(self, connection: Connection, on_orphaned: Callable[[], None]) -> None:
        self._connection = connection
        self._on_orphaned: Callable[[], None] | None = on_orphaned
        self._is_end = False

    def up(self) -> None:
        """It serves."""
        self._send(UP)

    def alive(self) -> None:
        """Its loop turns. To be called about every second."""
        self._send(ALIVE)

    def draining(self) -> None:
        """It ends, in its own time; nobody has to look after it any more."""
        self._send(DRAINING)

    def fileno(self) -> int:
        """Of the pipe: readable when there may be something to `take`."""
        return self._connection.fileno()

    def take(self) -> list[bytes] | None:
        """What came from other workers, without waiting; None when all of them end."""
        taken: list[bytes] = []
        try:
            while self._connection.poll():
                said = self._connection.recv_bytes()
                if said == END:
                    self._is_end = True
                else:
                    taken.append(said)
        except (EOFError, OSError):
            self._is_end = True
        return None if self._is_end else taken

    def is_end(self) -> bool:
        """Whether all workers end, and not this one alone. The end of the supervisor is the end of all."""
        return self.take() is None

    def admit_next(self, message: bytes) -> None:
        """Something for other workers, longer than one byte."""
        self._send(message)

    def _send(self, sign: bytes) -> None:
        try:
            self._connection.send_bytes(sign)
        except OSError:
            on_orphaned, self._on_orphaned = self._on_orphaned, None
            if on_orphaned is not None:
                on_orphaned()
