"""Several worker processes on one listening socket: starts them, replaces those that end or hang, passes signals on, and ends with them.

All workers share one socket, so a connection does not belong to a worker until that worker accepts it: when a worker dies, the others
accept the pending connections. The supervisor has no event loop and no threads. Through a pipe, each worker reports that it is up, that its
event loop runs, and that it drains. The supervisor announces through it that all workers are ending; a broken pipe means that the
supervisor is gone. The supervisor also forwards messages between workers (`anabranch.server.peers`).

Three rules for workers that fail. Until all of them have been up once, the end of one ends the start. Later, a worker that ends is replaced,
but not more than five times a minute: a process that cannot stay up must end, so that whoever watches it learns of it. A successor that
finds the document unusable is tried again as long as another worker serves: the document may be under repair.

uvicorn's own supervisor is not used. It restarts workers at SIGHUP, where each of ours reloads its document. It also keeps the socket open
while its workers drain, so that new connections would be accepted and never served.
"""

import logging
import os
import select
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from time import monotonic
from typing import Any, Final

import orjson

from anabranch.server.heartbeat import DRAINING, END, UP

logger = logging.getLogger("anabranch.workers")

STARTUP_FAILED: Final = 3
"""Exit code of a worker that would fail again: unusable document or settings, or a part that cannot start."""
WORKERS_FAILED: Final = 1
"""Exit code of the supervisor when workers died again and again, or did not end well."""
PULSE_S: Final = 1.0
PATIENCE_S: Final = 30.0
"""Seconds without a heartbeat after which a worker counts as hung."""
PAUSE_S: Final = 0.5
"""Seconds before the successor of a worker that ended soon after its start. Doubled each time."""
_SHORT_LIFE_S: Final = 5.0
_LONGEST_PAUSE_S: Final = 30.0
MOST_DEATHS: Final = 5
"""Unexpected ends of one worker, its successors included, within `DEATHS_WITHIN_S` after which the supervisor gives up."""
DEATHS_WITHIN_S: Final = 60.0


Target = Callable[[int, socket.socket, Connection], None]
"""A worker's main function. Arguments: its number from 0, the socket, the pipe for its `anabranch.server.heartbeat.Heartbeat`. It must be a
module-level function, because it is called in a new process."""


class _Worker:
    """One process. `number`: its index, which its successor inherits."""

    def __init__(self, number: int, process: SpawnProcess, pipe: Connection) -> None:
        self.number = number
        self.process = process
        self.pipe = pipe
        self.born_at = self.heard_at = monotonic()
        self.is_up = False
        self.is_draining = False

    def listen(self) -> list[bytes]:
        """Read what the worker sent, and return its messages to other workers. A broken pipe is ignored: the process shows that it has
        ended."""
        messages: list[bytes] = []
        with suppress(EOFError, OSError):
            while self.pipe.poll():
                received = self.pipe.recv_bytes()
                self.heard_at = monotonic()
                self.is_up = self.is_up or received == UP
                self.is_draining = self.is_draining or received == DRAINING
                if len(received) > 1:
                    messages.append(received)
        return messages

    def send(self, message: dict[str, Any]) -> None:
        """Send a message, unless the pipe is full: the supervisor must not block on a worker that hangs."""
        poll = select.poll()
        poll.register(self.pipe.fileno(), select.POLLOUT)
        if poll.poll(0):
            with suppress(OSError):
                self.pipe.send_bytes(orjson.dumps(message))

    def signal(self, number: int) -> None:
        if self.process.pid is not None and self.process.exitcode is None:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, number)


class Supervisor:
    """Keeps `count` workers running, each executing `target`. `on_up`: called when all of them serve for the first time. `stop_timeout_s`:
    a worker that takes longer to end is killed. `patience_s`: a worker without a heartbeat for so long is killed. `pause_s`: first pause before
    the successor of a worker that lived only a few seconds. `passes_hangup`: whether
    SIGHUP is passed on to the workers; if not, that signal is left alone.
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
        pause_s: float = PAUSE_S,
        passes_hangup: bool = True,
    ) -> None:
        self._target = target
        self._count = count
        self._listener = listener
        self._on_up = on_up
        self._stop_timeout_s = stop_timeout_s
        self._patience_s = patience_s
        self._pause_s = pause_s
        self._signals = (signal.SIGTERM, signal.SIGINT, *((signal.SIGHUP,) if passes_hangup else ()))
        self._context = get_context("spawn")
        self._workers: list[_Worker] = []
        self._due: dict[int, float] = {}
        self._pauses: dict[int, float] = {}
        self._deaths: dict[int, deque[float]] = {number: deque(maxlen=MOST_DEATHS) for number in range(count)}
        self._failing: set[int] = set()
        """Numbers whose last worker ended before it was up."""
        self._is_up = False
        self._stop_at: float | None = None
        self._exit_code = 0
        self._received: list[int] = []

    def run(self) -> int:
        """Run until SIGTERM or SIGINT, or until the workers cannot be kept running. Returns the exit code: 0, STARTUP_FAILED, or WORKERS_FAILED:
        workers died again and again, the successor of one could not start until the signal came, or one failed while stopping."""
        waker, woken = socket.socketpair()
        waker.setblocking(False)
        woken.setblocking(False)
        before: dict[int, Any] = {
            number: signal.signal(number, lambda number, _: self._received.append(number)) for number in self._signals
        }
        wakeup_before = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        try:
            for number in range(self._count):
                self._start(number)
            while self._workers or (self._stop_at is None and self._due):
                self._wait(woken)
                self._handle_signals()
                self._check_workers()
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
        """Wait until a worker ends or sends something, a signal arrives, or a second has passed."""
        wait([woken, *(worker.process.sentinel for worker in self._workers), *(worker.pipe for worker in self._workers)], PULSE_S)
        with suppress(BlockingIOError):
            woken.recv(4096)

    def _handle_signals(self) -> None:
        received, self._received[:] = list(self._received), []
        for number in received:
            if number == signal.SIGHUP:
                self._signal_all(signal.SIGHUP)
            else:
                if self._stop_at is None and self._failing - {worker.number for worker in self._workers if worker.is_up}:
                    self._exit_code = WORKERS_FAILED
                self._stop(signal.SIGTERM)

    def _stop(self, number: int) -> None:
        """Make the workers drain; a second call makes them skip all waiting. Closes the supervisor's copy of the socket, so that the last
        worker closes the last one.

        A worker that is still starting holds a copy as well and serves no connection. It has to be gone before the others stop listening:
        otherwise the system would accept connections for it, and reset them when it ends.
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
                    worker.pipe.send_bytes(END)
        self._signal_all(number)

    def _signal_all(self, number: int) -> None:
        for worker in self._workers:
            worker.signal(number)

    def _forward(self, worker: _Worker, message: dict[str, Any]) -> None:
        """Forward a worker's message: an order to the others, or what came of the order of another worker."""
        if "ask" in message:
            asked = [other for other in self._workers if other is not worker and not other.is_draining]
            for other in asked:
                other.send({"order": message["order"], "argument": message["argument"], "by": [worker.number, message["ask"]]})
            worker.send({"asked": [other.number for other in asked], "round": message["ask"]})
        elif "done" in message:
            number, asked_in = message["done"]
            for other in self._workers:
                if other.number == number:
                    other.send({"done": asked_in, "worker": worker.number, "outcome": message["outcome"]})

    def _check_workers(self) -> None:
        now = monotonic()
        for worker in list(self._workers):
            if worker not in self._workers:
                continue  # stopped in this round, because another worker could not start
            for message in worker.listen():
                self._forward(worker, orjson.loads(message))
            if worker.process.exitcode is not None:
                self._on_worker_end(worker, now)
            elif self._stop_at is not None:
                if now > self._stop_at:
                    logger.error("killing worker %d (process %d): it did not end in time", worker.number, worker.process.pid)
                    worker.process.kill()
            elif now - worker.heard_at > self._patience_s and worker.is_up and not worker.is_draining:
                logger.error("killing worker %d (process %d): no heartbeat for %.0f s", worker.number, worker.process.pid, self._patience_s)
                worker.process.kill()
        if not self._is_up and len(self._workers) == self._count and all(worker.is_up for worker in self._workers):
            self._is_up = True
            self._on_up()
        for number in [number for number, due in self._due.items() if due <= now]:
            self._start(number)

    def _on_worker_end(self, worker: _Worker, now: float) -> None:
        """Replace a worker that has ended, unless it was to end, or its successor would fail too."""
        process = worker.process
        process.join()
        worker.pipe.close()
        self._workers.remove(worker)
        for other in self._workers:
            other.send({"ended": worker.number})
        if self._stop_at is not None:
            if process.exitcode:
                self._exit_code = self._exit_code or WORKERS_FAILED
            return
        if not self._is_up:
            what = "ended before all workers were up" if worker.is_up else "could not start"
            self._give_up(STARTUP_FAILED, f"worker {worker.number} {what}: {_ending(process.exitcode)}")
            return
        if worker.is_up:
            self._failing.discard(worker.number)
        else:
            self._failing.add(worker.number)
        if worker.is_up or process.exitcode != STARTUP_FAILED:
            deaths = self._deaths[worker.number]
            deaths.append(now)
            if len(deaths) == MOST_DEATHS and now - deaths[0] <= DEATHS_WITHIN_S:
                self._give_up(
                    WORKERS_FAILED,
                    f"worker {worker.number} ended {MOST_DEATHS} times within {DEATHS_WITHIN_S:.0f} s, now with {_ending(process.exitcode)}",
                )
                return
        elif not any(other.is_up for other in self._workers):
            self._give_up(STARTUP_FAILED, f"worker {worker.number} could not start, and no other serves")
            return
        is_short = now - worker.born_at < _SHORT_LIFE_S
        pause = min(2 * self._pauses.get(worker.number, self._pause_s / 2), _LONGEST_PAUSE_S) if is_short else 0.0
        self._pauses[worker.number] = pause
        self._due[worker.number] = now + pause
        logger.error(
            "worker %d (process %d) exited with code %s; its successor starts in %.1f s",
            worker.number,
            process.pid,
            process.exitcode,
            pause,
        )

    def _give_up(self, code: int, reason: str) -> None:
        """Stop all workers, and end with this exit code."""
        logger.error("%s; stopping", reason)
        self._exit_code = code
        self._stop(signal.SIGTERM)


def _live(target: Target, number: int, listener: socket.socket, pipe: Connection) -> None:
    """Runs in the worker's process, in a session of its own: Ctrl-C at a terminal reaches only the supervisor, which passes it on once."""
    os.setsid()
    try:
        target(number, listener, pipe)
    except Exception:
        logger.exception("worker %d failed", number)
        sys.exit(WORKERS_FAILED)


def _ending(code: int | None) -> str:
    """How a process ended, in words. The system's out-of-memory killer sends signal 9."""
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
