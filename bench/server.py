"""Starts a process on chosen cores, waits until it answers, and always stops it. Stops only processes that it has started."""

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_STOP_S = 3.0


class StartError(Exception):
    """A server did not start, or gives wrong answers. The message names it and may show the end of its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cores:
    """The cores of the server under test, and those that the load generator and the services share."""

    server: frozenset[int]
    load: frozenset[int]

    @classmethod
    def of(cls, available: set[int]) -> "Cores":
        """The last core for the server, all others for the rest. With a single core everything shares it, and the figures mean little."""
        last = frozenset({max(available)})
        return cls(server=last, load=frozenset(available) - last or last)


@contextmanager
def process(
    command: Sequence[str],
    *,
    cores: frozenset[int],
    environment: Mapping[str, str] | None = None,
    stdin: int | None = subprocess.DEVNULL,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` on `cores`, in its own process group, until the block ends; then stop the whole group.

    Children inherit the affinity of the thread that starts them, so ours is changed for that moment: the child never runs on other cores.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        child = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    finally:
        os.sched_setaffinity(0, before)
    try:
        yield child
    finally:
        end(child)


def end(child: subprocess.Popen[bytes]) -> None:
    """Terminate `child`, then kill the rest of its process group."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # the group of its own session: it contains no other processes
    child.wait()


def free_port() -> int:
    """A loopback port that is currently unused."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def get(port: int, path: str, timeout_s: float = 15.0) -> tuple[int, bytes]:
    """Status and body of one GET. Raises OSError or HTTPException without a response."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def wait_until_up(name: str, child: subprocess.Popen[bytes], port: int, path: str, log: Path, patience_s: float) -> bytes:
    """Request `path` until the status is 200; returns the body. Raises StartError when `child` ends or `patience_s` passes first."""
    give_up = time.monotonic() + patience_s
    seen = "no connection"
    while time.monotonic() < give_up and child.poll() is None:
        try:
            status, body = get(port, path)
        except (OSError, http.client.HTTPException) as problem:
            seen = str(problem)
        else:
            if status == 200:
                return body
            seen = f"status {status}: {body[:300].decode(errors='replace')}"
        time.sleep(0.01)
    ended = "" if child.poll() is None else f" and ended with exit code {child.returncode}"
    tail = log.read_text(errors="replace")[-2_000:] if log.exists() else ""
    raise StartError(f"{name} did not answer {path} ({seen}){ended}. The end of its log:\n{tail}")
