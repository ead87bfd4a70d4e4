"""The gateway's end of the fork server: starts it, sends it orders to fork and kill workers, and receives their exit codes."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from sysconfig import get_paths
from time import monotonic
from typing import Final

from anabranch.compute.processes.frame import DIED, FORK, FORKED, KILL, ORDER, WARM

# The gateway's own modules are imported before the project's folders are searched: a file called `select.py` there must not replace Python's.
_BOOT: Final = """
import sys
searched, own = sys.argv[3].split("\\n"), sys.argv[4].split("\\n")
sys.path[:] = own
try:
    import json
    from anabranch.compute.processes.forkserver import main
except BaseException as error:
    sys.exit(f"a process for compute steps cannot start: {type(error).__name__}: {error}")
sys.path[:] = searched
main(int(sys.argv[1]), json.loads(sys.argv[2]))
"""
_END_WITHIN_S: Final = 5.0


class ForkClient:
    """One fork server.

    `on_death(number, code)`: called when a worker has ended, with its exit code or, if a signal ended it, `-signal`. `on_end()`: called when
    the fork server itself has ended, and all its workers with it. Both are called on the loop, and neither after `aclose`.
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
        """Start the process, which blocks this thread for a few milliseconds. It then imports the hooks on its own. Raises OSError."""
        control, server_socket = socket.socketpair()
        with server_socket:
            try:
                process = self._spawn(server_socket)
            except OSError:
                control.close()
                raise
        self._watch(process, control)

    async def start_in_thread(self) -> None:
        """Like `start`, but in another thread, so that the loop is not blocked. Raises OSError. Cancellation: closes the socket, and the
        process ends when it notices."""
        control, server_socket = socket.socketpair()
        spawning = asyncio.get_running_loop().run_in_executor(None, self._spawn, server_socket)
        try:
            process = await asyncio.shield(spawning)
        except BaseException:
            await asyncio.wait((spawning,))
            control.close()
            raise
        finally:
            server_socket.close()
        self._watch(process, control)

    def _spawn(self, server_socket: socket.socket) -> subprocess.Popen[bytes]:
        # Output of hooks goes to standard error, like the gateway's log: standard output may carry data.
        return subprocess.Popen(  # noqa: S603 - this interpreter, our own module
            (sys.executable, "-P", "-c", _BOOT, str(server_socket.fileno()), json.dumps(self._hooks), *map("\n".join, (sys.path, own_path()))),
            stdin=subprocess.DEVNULL, stdout=2, pass_fds=(server_socket.fileno(),), start_new_session=True,
        )  # fmt: skip

    def _watch(self, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        self._process = process
        control.setblocking(False)
        self._control = control
        asyncio.get_running_loop().add_reader(control, self._read)

    def fork(self, number: int, connection: socket.socket, arena: int) -> None:
        """Order a worker. The caller keeps both descriptors; the worker gets copies. Raises OSError if there is no fork server."""
        if self._control is None:
            raise ConnectionError("there is no fork server")
        socket.send_fds(self._control, [ORDER.pack(FORK, number, 0)], [connection.fileno(), arena])

    def kill(self, number: int) -> None:
        """Kill a worker and the processes that its hook has started. `on_death` reports its death. Does nothing if it is dead."""
        if self._control is None:
            return
        try:
            self._control.send(ORDER.pack(KILL, number, 0))
        except OSError:
            # The fork server does not read now. It has not reported the worker's death, so the process id still belongs to the worker.
            if (pid := self.pids.get(number)) is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    async def aclose(self) -> None:
        """Stop the fork server and all its workers, and wait until they have ended."""
        self._close_control()
        process = self._process
        if process is None:
            return
        self._process = None
        until = monotonic() + _END_WITHIN_S
        while process.poll() is None:
            if monotonic() > until:
                process.kill()
            await asyncio.sleep(0.005)

    def _close_control(self) -> None:
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
            self._close_control()
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


def own_path() -> list[str]:
    """`sys.path` with the folders of Python and of installed packages first, where the gateway's own imports belong."""
    installed = tuple(get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    return sorted(sys.path, key=lambda folder: not folder.startswith(installed))
