"""A group of child processes: starts them, waits until they are ready, watches them, and stops them together.

Each program runs as `python -m demo.tether MODULE ...`, so that none outlives this process. Children run in sessions of their own: Ctrl-C
reaches only this process, which stops them in order.
"""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

ROOT: Final = Path(__file__).parent.parent
TAIL_LINES: Final = 20
POLL_S: Final = 0.05


class StartError(Exception):
    """A program could not be started, or ended before it was ready. The message is for the person at the terminal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One program. `module`, `arguments`: passed to `python -m`. `port`: on 127.0.0.1. `ready_path`: answers 200 when the program is ready.

    `port_variable`: environment variable that sets the port, for messages. `environment`: added to this process's own.
    """

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    port: int
    ready_path: str
    port_variable: str
    environment: Mapping[str, str] = field(default_factory=dict)


class Child:
    """One started program, and the last lines it wrote. `say`: called with every line, if set."""

    def __init__(self, program: Program, process: asyncio.subprocess.Process) -> None:
        self.program: Final = program
        self.process: Final = process
        self.tail: Final[deque[str]] = deque(maxlen=TAIL_LINES)
        self.say: Callable[[str], None] | None = None
        self.following: Final = asyncio.create_task(self._follow(), name=f"follow {program.name}")

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process.returncode is None

    def last_words(self) -> str:
        return "\n".join(f"    {line}" for line in self.tail) or "    (it wrote nothing)"

    async def _follow(self) -> None:
        assert self.process.stdout is not None
        while line := await _line(self.process.stdout):
            text = line.decode(errors="replace").rstrip()
            self.tail.append(text)
            if self.say is not None:
                self.say(f"{self.program.name} | {text}")
        status = await self.process.wait()
        if self.say is not None:
            self.say(f"{self.program.name} has ended ({_reason(status)}); the others keep running")


class Supervisor:
    """Owns the children. An async context manager: on exit all children have been stopped, whatever happened inside.

    `say`: called with one line about a child that ended by itself, and, after `start`, with each line that a child writes.
    `stop_timeout_s`: a child that still runs this long after SIGTERM is killed.
    """

    def __init__(self, programs: list[Program], *, say: Callable[[str], None], stop_timeout_s: float = 5.0) -> None:
        self._programs: Final = programs
        self._say: Final = say
        self._stop_timeout_s: Final = stop_timeout_s
        self.children: Final[dict[str, Child]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self, *, ready_timeout_s: float = 20.0) -> None:
        """Start every program and return when all are ready. Raises StartError. After a cancellation, `stop` ends the children."""
        for program in self._programs:
            _check_port_is_free(program)
        for program in self._programs:
            await self._spawn(program)
        try:
            async with asyncio.timeout(ready_timeout_s):
                for child in self.children.values():
                    await self._until_ready(child)
        except TimeoutError:
            late = [child for child in self.children.values() if not await _is_ready(child.program)]
            words = "\n".join(f"  {child.program.name} wrote last:\n{child.last_words()}" for child in late)
            raise StartError(f"{', '.join(child.program.name for child in late)}: not ready after {ready_timeout_s:g} s\n{words}") from None
        for child in self.children.values():
            child.say = self._say

    async def stop(self) -> None:
        """Stop every child, the last started first: SIGTERM to all, and SIGKILL to those that do not end in time. May be called twice."""
        for child in reversed(self.children.values()):
            child.say = None
            if child.is_running:
                child.process.terminate()
        try:
            async with asyncio.timeout(self._stop_timeout_s):
                for child in self.children.values():
                    await child.process.wait()
        except TimeoutError:
            for child in self.children.values():
                if child.is_running:
                    child.process.kill()
        finally:
            for child in self.children.values():
                if child.process.stdin is not None:
                    child.process.stdin.close()  # cut the tether, in case we were cancelled above
        with contextlib.suppress(TimeoutError):  # a grandchild may still hold the pipe that we read
            async with asyncio.timeout(1.0):
                await asyncio.gather(*(child.following for child in self.children.values()))

    async def _spawn(self, program: Program) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "demo.tether", program.module, *program.arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **program.environment},
            start_new_session=True,
        )
        self.children[program.name] = Child(program, process)

    async def _until_ready(self, child: Child) -> None:
        while not await _is_ready(child.program):
            if not child.is_running:
                await child.following
                reason = _reason(child.process.returncode or 0)
                raise StartError(f"{child.program.name} ended before it was ready ({reason}); it wrote last:\n{child.last_words()}")
            await asyncio.sleep(POLL_S)


async def _line(stream: asyncio.StreamReader) -> bytes:
    try:
        return await stream.readline()
    except ValueError:  # the line exceeds the stream's limit: the part already read is dropped
        return b"(a very long line)\n"


def _reason(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit code {status}"


def _check_port_is_free(program: Program) -> None:
    with socket.socket() as probe:
        if os.name == "posix":  # elsewhere this option would allow a port that is in use
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", program.port))
        except OSError:
            raise StartError(
                f"{program.name}: port {program.port} is in use. Stop what listens there, or choose another: {program.port_variable}=PORT"
            ) from None


async def _is_ready(program: Program) -> bool:
    """Whether the program answers its health check with 200 within a second."""
    request = f"GET {program.ready_path} HTTP/1.1\r\nHost: 127.0.0.1:{program.port}\r\nConnection: close\r\n\r\n"
    try:
        async with asyncio.timeout(1.0):
            reader, writer = await asyncio.open_connection("127.0.0.1", program.port)
            try:
                writer.write(request.encode("ascii"))
                return (await reader.readline()).split(b" ")[1:2] == [b"200"]
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError):
        return False
