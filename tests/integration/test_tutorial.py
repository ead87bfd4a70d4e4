"""Follows docs/tutorial.md as a reader would: writes every document, runs every command, and compares every output shown.

Only the ports differ, because the tutorial's may be in use, and httpx replaces `curl`, which not every machine has. In an output, `...`
matches anything, and the real output may contain further lines between those shown. On a busy machine a service may be late, so a `curl` is
repeated until its output matches the page.
"""

import asyncio
import os
import re
import shlex
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import orjson

from demo.service import PORTS
from tests.integration.demo.programs import is_listening
from tests.support.paths import PYTHONPATH, ROOT
from tests.support.ports import free_ports

TUTORIAL = ROOT / "docs" / "tutorial.md"
OWN_PORT = 8081
TIMEOUT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Block:
    """One block of code. `line`: its first line in the page."""

    kind: str
    text: str
    line: int


def blocks() -> list[Block]:
    page = TUTORIAL.read_text("utf-8")
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [Block(kind=match[1], text=match[2], line=page.count("\n", 0, match.start()) + 1) for match in found]


def shows(expected: str, output: str) -> bool:
    """Whether the output contains the expected lines, in order."""
    lines = iter(output.splitlines())
    patterns = [".*".join(map(re.escape, line.split("..."))) for line in expected.splitlines()]
    return all(any(re.fullmatch(pattern, line) for line in lines) for pattern in patterns)


def parsed(output: str) -> Any:
    """The output as JSON; output that is not JSON equals nothing."""
    try:
        return orjson.loads(output)
    except orjson.JSONDecodeError:
        return object()


@dataclass(kw_only=True)
class Reader:
    """A reader at three terminals. `output`: of the last command. `ports`: the tutorial's ports and their replacements."""

    folder: Path
    ports: dict[int, int]
    exits: AsyncExitStack
    gateway: Process | None = None
    output: str = ""
    pid: str = ""
    asked: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)

    def here(self, text: str) -> str:
        """The text with the ports used here."""
        return re.sub(r"\b\d{4}\b", lambda found: str(self.ports.get(int(found[0]), found[0])), text)

    @property
    def environment(self) -> dict[str, str]:
        services = {f"{name.upper()}_PORT": str(self.ports[port]) for name, port in PORTS.items()}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        own = {"PATH": path, "PYTHONPATH": PYTHONPATH, "PYTHONUNBUFFERED": "1", "ANABRANCH_PORT": str(self.ports[8080])}
        # As on a terminal, which the reader has.
        return {**os.environ, **services, **own, "ANABRANCH_LOG_FORMAT": "console"}

    async def do(self, command: str) -> None:
        words = shlex.split(self.here(command).replace("PID", self.pid))
        match words:
            case ["make", "run"]:
                await self._demo()
            case [".", ".venv/bin/activate"]:
                pass  # the environment that this test runs in
            case ["anabranch", "run", *_]:
                await self._run(words)
            case ["python", "-m", "demo.weather"]:
                process = await self._start([sys.executable, *words[1:]])
                await self._until_listening(self.ports[PORTS["weather"]], process)
            case ["curl", *arguments]:
                self.asked = arguments
                self.output = await curl(arguments)
            case ["anabranch", *arguments]:
                self.asked = []
                self.output = await self._finish([sys.executable, "-m", "anabranch", *arguments])
            case ["kill", *_]:
                await self._finish(words)
                if len(words) == 2:
                    async with asyncio.timeout(TIMEOUT_S):
                        while await is_listening(self.ports[PORTS["weather"]]):
                            await asyncio.sleep(0.05)
            case _:
                raise AssertionError(f"the tutorial has a command that this test does not know: {command}")
        self.done.append(words[0])

    async def _demo(self) -> None:
        recipe = subprocess.run(["make", "--no-print-directory", "-n", "run"], cwd=ROOT, capture_output=True, text=True, check=True)
        assert recipe.stdout.splitlines()[-1].endswith("python -m demo")
        demo = await self._start([sys.executable, "-m", "demo"], cwd=ROOT)
        screen = await self._read_until(demo, "Ctrl-C stops everything.")
        self.pid = next(line.split()[-1] for line in screen.splitlines() if line.strip().startswith("weather "))

    async def see(self, is_right: Callable[[str], bool]) -> bool:
        """Whether the last command's output is as expected. A `curl` is repeated until it is."""
        give_up = monotonic() + TIMEOUT_S
        while not is_right(self.output):
            if not self.asked or monotonic() > give_up:
                return False
            await asyncio.sleep(0.1)
            self.output = await curl(self.asked)
        return True

    async def save(self, document: str) -> None:
        """Write the document and wait until the running gateway loads it or reports its problems."""
        (self.folder / "my.yaml").write_text(self.here(document), "utf-8")
        if self.gateway is not None:
            await self._read_until(self.gateway, "reloaded the document", "the old one stays in force")

    async def _run(self, words: list[str]) -> None:
        assert self.gateway is None
        self.gateway = await self._start([sys.executable, "-m", "anabranch", *words[1:]])
        self.output = await self._read_until(self.gateway, " serves ")

    async def _finish(self, words: list[str]) -> str:
        process = await self._start(words)
        async with asyncio.timeout(TIMEOUT_S):
            output, _ = await process.communicate()
        return output.decode()

    async def _start(self, words: list[str], *, cwd: Path | None = None) -> Process:
        process = await asyncio.create_subprocess_exec(
            *words, cwd=cwd or self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.exits.push_async_callback(_end, process)
        return process

    async def _read_until(self, process: Process, *texts: str) -> str:
        assert process.stdout is not None
        screen = ""
        async with asyncio.timeout(TIMEOUT_S):
            while not any(text in screen for text in texts):
                line = (await process.stdout.readline()).decode()
                assert line, f"it ended:\n{screen}"
                screen += line
        return screen

    async def _until_listening(self, port: int, process: Process) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while not await is_listening(port):
                assert process.returncode is None
                await asyncio.sleep(0.05)


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.terminate()
    async with asyncio.timeout(TIMEOUT_S):
        await process.communicate()


async def curl(arguments: list[str]) -> str:
    """The output of curl for `[-i] [-H FIELD] URL`."""
    *options, url = arguments
    headers = {}
    if "-H" in options:
        at = options.index("-H")
        name, _, value = options[at + 1].partition(": ")
        headers[name] = value
        del options[at : at + 2]
    assert set(options) <= {"-i"}
    async with httpx.AsyncClient(timeout=TIMEOUT_S) as client:
        response = await client.get(url, headers=headers)
    head = [
        f"{response.http_version} {response.status_code} {response.reason_phrase}",
        *(": ".join(pair) for pair in response.headers.items()),
    ]
    return "\n".join([*(head if options else []), response.text])


@asynccontextmanager
async def reader(folder: Path) -> AsyncIterator[Reader]:
    names = [8080, OWN_PORT, *PORTS.values()]
    async with AsyncExitStack() as exits:
        yield Reader(folder=folder, ports=dict(zip(names, free_ports(len(names)), strict=True)), exits=exits)


async def test_commands_of_the_tutorial_give_the_printed_output(tmp_path: Path) -> None:
    async with reader(tmp_path) as person:
        for block in blocks():
            place = f"docs/tutorial.md:{block.line}"
            match block.kind:
                case "yaml":
                    await person.save(block.text)
                case "sh":
                    for command in block.text.splitlines():
                        await person.do(command)
                case "json":
                    shown = orjson.loads(block.text)
                    assert await person.see(lambda output, shown=shown: parsed(output) == shown), f"{place}\n{person.output}"  # type: ignore[misc]
                case "text":
                    text = person.here(block.text)
                    assert await person.see(lambda output, text=text: shows(text, output)), f"{place}\n{person.output}"  # type: ignore[misc]
                case kind:
                    raise AssertionError(f"{place}: a block of the kind {kind!r}")
    assert person.done.count("curl") >= 8


def test_outputs_are_compared() -> None:
    assert shows("a...c\ne", "abc\nd\ne")
    assert not shows("e\nabc", "abc\nd\ne")
    assert not shows("b", "abc")
