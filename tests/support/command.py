"""Runs `anabranch run` in its own process, as an operator does, with clients that distinguish every failure from a refused connection."""

import asyncio
import os
import re
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from anabranch.testing.serving import LOOPBACK
from tests.support.paths import ROOT

PATIENCE_S: Final = 40.0


class Command:
    """A running gateway. `port`: where it listens. `said`: the lines that it has written to stderr so far."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.port = port
        self.said: list[str] = []
        self._heard = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int:
        return self.process.pid

    async def ended(self) -> int:
        """Wait for the process to end; return its exit code."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.process.wait()

    async def says(self, text: str, count: int = 1) -> None:
        """Wait until `count` lines that contain `text` have been written."""
        async with asyncio.timeout(PATIENCE_S):
            while sum(text in line for line in self.said) < count:
                self._heard.clear()
                await self._heard.wait()

    async def listen(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.said.append(line.decode().rstrip())
            self._heard.set()


@asynccontextmanager
async def running_command(document: Path, *arguments: str, **variables: str) -> AsyncIterator[Command]:
    """`anabranch run` on a free port, ready when the body starts. Killed on leaving if it is still running."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ANABRANCH_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "anabranch", "run", str(document), "--port", "0", *arguments),
        cwd=ROOT, env={**clean, **variables}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    command = Command(process, 0)
    listening = asyncio.create_task(command.listen())
    try:
        await command.says("http://")
        address = re.search(r"http://[^:]+:(\d+)", "\n".join(command.said))
        assert address is not None, command.said
        command.port = int(address[1])
        yield command
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
        await process.wait()
        await listening


@dataclass(slots=True)
class Tally:
    """What clients experienced. `failures`: requests on an open connection that got no complete response, or a status other than 200.
    `refused`: connections that were refused."""

    answered: int = 0
    refused: int = 0
    failures: list[str] = field(default_factory=list)


async def ask_until_refused(port: int, target: str, tally: Tally, *, is_kept_alive: bool) -> None:
    """One client that repeats its request and reads every response completely. After `Connection: close` it reconnects; it ends when the
    new connection is refused."""
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    while True:
        if streams is None:
            try:
                streams = await asyncio.open_connection(LOOPBACK, port)
            except ConnectionRefusedError:
                tally.refused += 1
                return
        reader, writer = streams
        try:
            async with asyncio.timeout(PATIENCE_S):
                connection = "" if is_kept_alive else "connection: close\r\n"
                writer.write(f"GET {target} HTTP/1.1\r\nhost: gateway\r\n{connection}\r\n".encode())
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = re.search(r"content-length: (\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
        except (OSError, EOFError, TimeoutError) as error:
            tally.failures.append(f"{type(error).__name__} after {tally.answered} answers, kept alive: {is_kept_alive}")
            writer.close()
            return
        if " 200 " not in head.split("\r\n")[0]:
            tally.failures.append(head)
        tally.answered += 1
        if "\r\nconnection: close" in head:
            writer.close()
            streams = None
