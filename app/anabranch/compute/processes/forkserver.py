"""The fork server: a process that has imported the hooks and forks a warm worker in a few milliseconds on request.

It runs no code of the hooks except their imports, so it stays small, single-threaded and responsive. It is the parent of all workers: it
alone kills them, since a process id can be reused once its process is reaped, and it reports their exit codes. When the gateway ends, even
by `kill -9`, it reads the end of its socket, kills the remaining workers and exits. When the fork server ends, the system kills its workers.

Each worker leads its own session, so that signals from the terminal do not reach it, and processes that a hook has started die with it.
"""

import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any, Final

from anabranch.compute.call import resolve
from anabranch.compute.processes.frame import DIED, FORK, FORKED, KILL, ORDER, WARM
from anabranch.compute.processes.worker import serve

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_WORKER_FDS: Final = 2


class ForkServer:
    """`control`: the socket to the gateway. Owns the workers it forks."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._numbers: dict[int, int] = {}
        self._pids: dict[int, int] = {}
        self._wakeup, self._alarm = os.pipe()

    def run(self) -> None:
        """Serve until the gateway has ended."""
        os.set_blocking(self._alarm, False)
        os.set_blocking(self._wakeup, False)
        signal.set_wakeup_fd(self._alarm, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGTERM):
            # A signal to the whole group is meant for the gateway, which still has to finish requests. Not SIG_IGN: processes that hooks
            # start would inherit it.
            signal.signal(number, lambda *_: None)
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        try:
            self._send(WARM, 0, 0)
            sources: list[Any] = [self._control, self._wakeup]
            while True:
                readable: list[object] = select.select(sources, [], [])[0]
                if self._wakeup in readable:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wakeup, 4096)
                    self._reap()
                if self._control in readable and not self._handle_order():
                    return
        except (BrokenPipeError, ConnectionResetError):
            return
        finally:
            for pid in list(self._numbers):
                _kill(pid)

    def _handle_order(self) -> bool:
        """Read and carry out one order. Returns False if the gateway has ended."""
        order, fds, _, _ = socket.recv_fds(self._control, ORDER.size, _WORKER_FDS)
        if not order:
            return False
        while len(order) < ORDER.size:
            order += self._control.recv(ORDER.size - len(order))
        verb, number, _ = ORDER.unpack(order)
        if verb == FORK:
            self._fork(number, fds)
        elif verb == KILL and number in self._pids:
            _kill(self._pids[number])
        return True

    def _fork(self, number: int, fds: Sequence[int]) -> None:
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            for fd in fds:
                os.close(fd)
            self._send(DIED, number, -(1000 + (error.errno or 0)))
            return
        if not pid:
            self._become_worker(parent, fds)
        for fd in fds:
            os.close(fd)
        self._numbers[pid] = number
        self._pids[number] = pid
        self._send(FORKED, number, pid)

    def _become_worker(self, parent: int, fds: Sequence[int]) -> None:
        """Serve jobs, then exit. Never returns, so that no code of the fork server continues in a worker."""
        status = 1
        try:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                return
            os.setsid()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._control.close()
            os.close(self._wakeup)
            os.close(self._alarm)
            serve(socket.socket(fileno=fds[0]), fds[1])
            status = 0
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
            os._exit(status)

    def _reap(self) -> None:
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            pid = ended.si_pid
            number = self._numbers.pop(pid, None)
            if number is not None:
                # Kill the processes that it has started. It is not reaped yet, so its process id cannot belong to another process.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            if number is not None:
                del self._pids[number]
                code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
                self._send(DIED, number, code)

    def _send(self, verb: bytes, number: int, value: int) -> None:
        self._control.sendall(ORDER.pack(verb, number, value))


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    """Call prctl, on Linux only. On other systems workers end when their socket is closed."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def main(fd: int, hooks: Sequence[str]) -> None:
    """Import the hooks, then serve the socket `fd`."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    control = socket.socket(fileno=fd)
    for hook in hooks:
        # A hook that cannot be imported fails each of its jobs with the reason. It must not affect the other hooks.
        with contextlib.suppress(BaseException):
            resolve(hook)
    gc.collect()
    gc.freeze()
    ForkServer(control).run()


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]))
