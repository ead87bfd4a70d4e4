"""Several worker processes on one listening socket: starts them, replaces those that end or hang, passes signals on, and ends with them.

One socket for all, so that a connection never belongs to a worker before that has accepted it: when one dies, the others take what waits.
The supervisor itself has no event loop and no threads. A worker tells it by a pipe that it is up, that it still turns, and that it drains;
the other way it tells that all workers end; a broken pipe tells a worker that its supervisor is gone. Knows processes, and nothing of what
they serve.

uvicorn's own supervisor is not used: it restarts workers at SIGHUP, where each of ours reloads its document, and it keeps the socket open
while its workers drain, so that clients would wait at a door behind which nobody is.
"""

import logging
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from time import monotonic
from typing import Any, Final

logger = logging.getLogger("anabranch.workers")

STARTUP_FAILED: Final = 3
"""The exit code of a worker that would fail again: bad document, bad settings."""
PULSE_S: Final = 1.0
PATIENCE_S: Final = 30.0
"""A worker that has been silent for so long hangs."""
_UP: Final = b"u"
_ALIVE: Final = b"a"
_DRAINING: Final = b"d"
_END: Final = b"e"
_SHORT_LIFE_S: Final = 5.0
_LONGEST_PAUSE_S: Final = 30.0


class Pulse:
    """The worker's end of its pipe. `on_orphaned` is called when nobody listens any more."""

    def __init__(self, connection: Connection, on_orphaned: Callable[[], None]) -> None:
        self._connection = connection
        self._on_orphaned: Callable[[], None] | None = on_orphaned

    def up(self) -> None:
        """It serves."""
        self._send(_UP)

    def alive(self) -> None:
        """Its loop turns. To be called about every second."""
        self._send(_ALIVE)

    def draining(self) -> None:
        """It ends, in its own time; nobody has to look after it any more."""
        self._send(_DRAINING)

    def is_end(self) -> bool:
        """Whether all workers end, and not this one alone. The end of the supervisor is the end of all."""
        return self._connection.poll()

    def _send(self, sign: bytes) -> None:
        try:
            self._connection.send_bytes(sign)
        except OSError:
            on_orphaned, self._on_orphaned = self._on_orphaned, None
            if on_orphaned is not None:
                on_orphaned()


Target = Callable[[int, socket.socket, Connection], None]
"""A worker's life: its number from 0, the socket, the pipe for its `Pulse`. A function of a module: it is called in a new process."""


class _Worker:
    """One process. `number`: its place, which its successor inherits."""

    def __init__(self, number: int, process: SpawnProcess, pipe: Connection) -> None:
        self.number = number
        self.process = process
        self.pipe = pipe
        self.born_at = self.heard_at = monotonic()
        self.is_up = False
        self.is_draining = False

    def listen(self) -> None:
        """Take in what it said. A worker that is silent because it has ended is found by its process."""
        with suppress(EOFError, OSError):
            while self.pipe.poll():
                sign = self.pipe.recv_bytes(1)
                self.heard_at = monotonic()
                self.is_up = self.is_up or sign == _UP
                self.is_draining = self.is_draining or sign == _DRAINING

    def signal(self, number: int) -> None:
        if self.process.pid is not None and self.process.exitcode is None:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, number)


class Supervisor:
    """`count` workers, each running `target`. `on_up`: called when all of them serve for the first time. `stop_timeout_s`: a worker that
    takes longer to end is killed. `patience_s`: so is one that has been silent for so long.
    """

    def __init__(
        self,
        target: Target,
        *,
        count: int,
        listener: socket.socket,
        on_up: Callable[[], None],
        stop_timeout_s: float,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._target = target
        self._count = count
        self._listener = listener
        self._on_up = on_up
        self._stop_timeout_s = stop_timeout_s
        self._patience_s = patience_s
        self._context = get_context("spawn")
        self._workers: list[_Worker] = []
        self._due: dict[int, float] = {}
        self._pauses: dict[int, float] = {}
        self._is_up = False
        self._stop_at: float | None = None
        self._exit_code = 0
        self._received: list[int] = []

    def run(self) -> int:
        """Until SIGTERM or SIGINT. Returns the exit code: 0, STARTUP_FAILED, or 1 when a worker did not end in peace."""
        waker, woken = socket.socketpair()
        waker.setblocking(False)
        woken.setblocking(False)
        before: dict[int, Any] = {
            number: signal.signal(number, lambda number, _: self._received.append(number))
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        }
        wakeup_before = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        try:
            for number in range(self._count):
                self._start(number)
            while self._workers or (self._stop_at is None and self._due):
                self._wait(woken)
                self._handle_signals()
                self._look()
        finally:
            for worker in self._workers:
                worker.process.kill()
                worker.process.join()
            signal.set_wakeup_fd(wakeup_before)
            for signal_number, handler in before.items():
                signal.signal(signal_number, handler)
            waker.close()
            woken.close()
        return self._exit_code

    def _start(self, number: int) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_live, args=(self._target, number, self._listener, theirs), name=f"anabranch-worker-{number}"
        )
        process.start()
        theirs.close()
        self._workers.append(_Worker(number, process, ours))
        self._due.pop(number, None)

    def _wait(self, woken: socket.socket) -> None:
        """Until something may have happened: a worker ended or said something, a signal came, or a second is over."""
        wait([woken, *(worker.process.sentinel for worker in self._workers), *(worker.pipe for worker in self._workers)], PULSE_S)
        with suppress(BlockingIOError):
            woken.recv(4096)

    def _handle_signals(self) -> None:
        received, self._received[:] = list(self._received), []
        for number in received:
            if number == signal.SIGHUP:
                self._tell(signal.SIGHUP)
            else:
                self._stop(signal.SIGTERM)

    def _stop(self, number: int) -> None:
        """Let the workers drain; told again, they hurry. Our copy of the socket is closed: the last worker closes the last one.

        A worker that is only starting holds a copy as well, and serves nobody: it has to be gone before the others stop listening, or
        the system would accept connections for it, and reset them when it ends.
        """
        if self._stop_at is None:
            self._stop_at = monotonic() + self._stop_timeout_s
            self._listener.close()
            self._due.clear()
            for worker in self._workers:
                worker.listen()
            for worker in [worker for worker in self._workers if not worker.is_up]:
                worker.process.kill()
                worker.process.join()
                worker.pipe.close()
                self._workers.remove(worker)
            for worker in self._workers:
                with suppress(OSError):
                    worker.pipe.send_bytes(_END)
        self._tell(number)

    def _tell(self, number: int) -> None:
        for worker in self._workers:
            worker.signal(number)

    def _look(self) -> None:
        now = monotonic()
        for worker in list(self._workers):
            if worker not in self._workers:
                continue  # the end of another one has taken it along
            worker.listen()
            if worker.process.exitcode is not None:
                self._buried(worker, now)
            elif self._stop_at is not None:
                if now > self._stop_at:
                    logger.error("worker %d (process %d) did not end in time and is killed", worker.number, worker.process.pid)
                    worker.process.kill()
            elif now - worker.heard_at > self._patience_s and worker.is_up and not worker.is_draining:
                logger.error(
                    "worker %d (process %d) has not moved for %.0f s and is killed", worker.number, worker.process.pid, self._patience_s
                )
                worker.process.kill()
        if not self._is_up and len(self._workers) == self._count and all(worker.is_up for worker in self._workers):
            self._is_up = True
            self._on_up()
        for number in [number for number, due in self._due.items() if due <= now]:
            self._start(number)

    def _buried(self, worker: _Worker, now: float) -> None:
        """A worker has ended: replace it, unless that was wanted, or useless."""
        process = worker.process
        process.join()
        worker.pipe.close()
        self._workers.remove(worker)
        if self._stop_at is not None:
            if process.exitcode:
                self._exit_code = self._exit_code or 1
            return
        # Later on a successor that cannot start is no reason to end those that serve: the document may be in repair.
        if not self._is_up and not worker.is_up and process.exitcode == STARTUP_FAILED:
            logger.error("worker %d could not start; the others are stopped", worker.number)
            self._exit_code = STARTUP_FAILED
            self._stop(signal.SIGTERM)
            return
        is_short = now - worker.born_at < _SHORT_LIFE_S
        pause = min(2 * self._pauses.get(worker.number, 0.25), _LONGEST_PAUSE_S) if is_short else 0.0
        self._pauses[worker.number] = pause
        self._due[worker.number] = now + pause
        logger.error(
            "worker %d (process %d) ended with %s; the next one starts in %.1f s", worker.number, process.pid, process.exitcode, pause
        )


def _live(target: Target, number: int, listener: socket.socket, pipe: Connection) -> None:
    """In the worker's process. A session of its own: Ctrl-C at a terminal is for the supervisor, which passes it on once."""
    os.setsid()
    target(number, listener, pipe)
