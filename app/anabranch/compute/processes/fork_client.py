"""The gateway's end of the fork server: starts it, orders workers, and is told how each one ended."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

from anabranch.compute.processes.frame import DIED, FORK, FORKED, KILL, ORDER, WARM

_BOOT: Final = "import json, sys; sys.path[:] = json.loads(sys.argv[3]); from anabranch.compute.processes.forkserver import main; main(int(sys.argv[1]), json.loads(sys.argv[2]))"
_END_WITHIN_S: Final = 5.0


class ForkClient:
    """One fork server. `on_death(number, code)`: a worker has ended, by an exit code, or by the signal `-code`. `on_end()`: the fork server
    itself has, and with it every worker that it had. Both are called on the loop; neither after `aclose`.
    """

    def __init__(self, hooks: Sequence[str], *, on_death: Callable[[int, int], None], on_end: Callable[[], None]) -> None:
        self._hooks = hooks
        self._on_death = on_death
        self._on_end = on_end
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self.pids: dict[int, int] = {}
        self.warm = asyncio.Event()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start the process, which takes this thread a few milliseconds; it imports the hooks by itself. Raises OSError."""
        control, theirs = socket.socketpair()
        with theirs:
            try:
                process = self._spawn(theirs)
            except OSError:
                control.close()
                raise
        self._attend(process, control)

    async def start_aside(self) -> None:
        """The same without taking the loop's time: another thread waits for the system. Raises OSError. A process whose start was cancelled
        finds that nobody holds its socket, and ends."""
        control, theirs = socket.socketpair()
        spawning = asyncio.get_running_loop().run_in_executor(None, self._spawn, theirs)
        try:
            process = await asyncio.shield(spawning)
        except BaseException:
            await asyncio.wait((spawning,))
            control.close()
            raise
        finally:
            theirs.close()
        self._attend(process, control)

    def _spawn(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        # What hooks print goes where the gateway's log goes: standard output may be somebody's data.
        return subprocess.Popen(  # noqa: S603 - this interpreter, our own module
            (sys.executable, "-c", _BOOT, str(theirs.fileno()), json.dumps(self._hooks), json.dumps(sys.path)),
            stdin=subprocess.DEVNULL, stdout=2, pass_fds=(theirs.fileno(),), start_new_session=True,
        )  # fmt: skip

    def _attend(self, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        self._process = process
        control.setblocking(False)
        self._control = control
        asyncio.get_running_loop().add_reader(control, self._read)

    def fork(self, number: int, connection: socket.socket, arena: int) -> None:
        """Order a worker. Both descriptors stay the caller's: the worker has copies. Raises OSError when the fork server is away."""
        if self._control is None:
            raise ConnectionError("there is no fork server")
        socket.send_fds(self._control, [ORDER.pack(FORK, number, 0)], [connection.fileno(), arena])

    def kill(self, number: int) -> None:
        """Kill a worker, and what its hook has started. Its death is told by `on_death`. Nothing when it is dead."""
        if self._control is None:
            return
        try:
            self._control.send(ORDER.pack(KILL, number, 0))
        except OSError:
            # The fork server does not listen just now. It has not said that the worker is dead, so the process id is still the worker's.
            if (pid := self.pids.get(number)) is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    async def aclose(self) -> None:
        """End the fork server and all its workers, and wait until they have ended."""
        self._drop()
        process = self._process
        if process is None:
            return
        self._process = None
        until = monotonic() + _END_WITHIN_S
        while process.poll() is None:
            if monotonic() > until:
                process.kill()
            await asyncio.sleep(0.005)

    def _drop(self) -> None:
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()
            self._control = None

    def _read(self) -> None:
        assert self._control is not None
        try:
            received = self._control.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received:
            self._drop()
            self._on_end()
            return
        self._buffer += received
        while len(self._buffer) >= ORDER.size:
            verb, number, value = ORDER.unpack(self._buffer[: ORDER.size])
            self._buffer = self._buffer[ORDER.size :]
            if verb == WARM:
                self.warm.set()
            elif verb == FORKED:
                self.pids[number] = value
            elif verb == DIED:
                self.pids.pop(number, None)
                self._on_death(number, value)
