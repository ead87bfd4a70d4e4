"""Runs every block of the first part of docs/operations.md in a shell, as a reader would.

Only ports, timeouts and folder differ, so that the answers shown are complete even on a busy machine. A small program with the same options
replaces `curl`, which not every machine has.
"""

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from demo.service import PORTS
from tests.support.paths import PYTHONPATH, ROOT
from tests.support.ports import free_ports
from tests.support.unhurried import unhurried

TIMEOUT_S = 60.0

CURL = """#!{python}
import argparse, sys, urllib.error, urllib.request
options = argparse.ArgumentParser()
for flag in ("-i", "-s", "-f"):
    options.add_argument(flag, action="store_true")
options.add_argument("-o")
options.add_argument("-w", default="")
options.add_argument("-X", default="GET")
options.add_argument("url")
asked = options.parse_args()
try:
    answer = urllib.request.urlopen(urllib.request.Request(asked.url, method=asked.X), timeout=60)
except urllib.error.HTTPError as error:
    answer = error
except OSError:
    sys.exit(7)
body = answer.read().decode()
text = (f"HTTP/1.1 {{answer.status}}\\n{{answer.headers}}" if asked.i else "") + body
if asked.f and answer.status >= 400:
    sys.exit(22)
if asked.o:
    open(asked.o, "w").write(text)
else:
    print(text)
print(asked.w.replace("%{{http_code}}", str(answer.status)), end="", flush=True)
"""


def first_part() -> str:
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    return page.split("\n## From a clone to a gateway you can operate\n")[1].split("\n## ")[0]


class Reader:
    """A reader at three terminals, in a folder that looks like the clone."""

    def __init__(self, folder: Path, exits: AsyncExitStack) -> None:
        self.folder = folder
        self._exits = exits
        names = [8081, 9091, 8080, *PORTS.values()]
        self._ports = dict(zip(names, free_ports(len(names)), strict=True))
        (folder / "bin").mkdir()
        (folder / "bin" / "curl").write_text(CURL.format(python=sys.executable), "utf-8")
        (folder / "bin" / "curl").chmod(0o755)
        (folder / ".venv" / "bin").mkdir(parents=True)
        (folder / ".venv" / "bin" / "activate").touch()
        shutil.copytree(ROOT / "demo", folder / "demo", ignore=shutil.ignore_patterns("__pycache__"))
        document = folder / "demo" / "gateway.yaml"
        document.write_text(unhurried(document.read_text("utf-8")), "utf-8")
        path = os.pathsep.join([str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
        self._environment = {**os.environ, "PATH": path, "PYTHONPATH": PYTHONPATH, "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
        for name, port in PORTS.items():
            self._environment |= {
                f"{name.upper()}_PORT": str(self._ports[port]),
                f"{name.upper()}_URL": f"http://127.0.0.1:{self._ports[port]}",
            }

    def here(self, text: str) -> str:
        """The text with the ports used here, and with a longer drain so that it can be observed more than once."""
        text = text.replace("ANABRANCH_DRAIN_DELAY_S=3", "ANABRANCH_DRAIN_DELAY_S=6")
        return re.sub(r"\b\d{4}\b", lambda found: str(self._ports.get(int(found[0]), found[0])), text)

    async def start(self, commands: str, **environment: str) -> Process:
        """Run the commands in their own terminal."""
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", self.here(commands)),
            cwd=self.folder,
            env=self._environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._exits.push_async_callback(self._end, process)
        return process

    async def run(self, commands: str) -> str:
        """Run the commands, and return their output."""
        process = await self.start(commands)
        async with asyncio.timeout(TIMEOUT_S):
            output, _ = await process.communicate()
        return output.decode()

    async def make_run(self) -> Process:
        return await self.start(f"exec {sys.executable} -m demo", ANABRANCH_PORT=str(self._ports[8080]))

    async def _end(self, process: Process) -> None:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGTERM)
        async with asyncio.timeout(TIMEOUT_S):
            await process.communicate()


async def read_until(process: Process, text: str) -> None:
    assert process.stdout is not None
    screen = ""
    async with asyncio.timeout(TIMEOUT_S):
        while text not in screen:
            line = (await process.stdout.readline()).decode()
            assert line, f"it ended without saying {text!r}:\n{screen}"
            screen += line


@pytest.fixture
async def person(tmp_path: Path) -> AsyncIterator[Reader]:
    async with AsyncExitStack() as exits:
        yield Reader(tmp_path, exits)


async def test_commands_in_the_first_part_of_the_guide_work(person: Reader) -> None:
    services, ours, looks, broken, load = re.findall(r"^```sh\n(.*?)^```$", first_part(), re.MULTILINE | re.DOTALL)
    assert services.split() == ["make", "run"]
    await read_until(await person.make_run(), "Ctrl-C stops everything.")
    gateway = await person.start(ours)
    await read_until(gateway, " serves ")

    seen = await person.run(looks)
    assert "gateway-complete: ?1" in seen
    assert '{"status":"ready","reasons":[]}' in seen
    assert 'anabranch_requests_total{complete="true",endpoint="flight_briefing",status="200"} 1.0' in seen
    assert re.search(r"flight_briefing\W+1\b", seen)

    document = person.folder / "build" / "operate" / "gateway.yaml"
    good = document.read_text("utf-8").replace("title: New York departures", "title: Departures")
    document.write_text(good, "utf-8")
    await read_until(gateway, "reloaded the document")
    assert '"title":"Departures"' in await person.run("curl http://127.0.0.1:8081/openapi.json")

    document.write_text(f"{good}\nendpoints: [\n", "utf-8")
    await read_until(gateway, "the old one stays in force")
    seen = await person.run(broken)
    assert '{"status":"ready","reasons":["the document on disk is not usable' in seen
    assert f'"line":{good.count(chr(10)) + 3}' in seen
    assert "anabranch_reload_failed 1.0" in seen

    document.write_text(good, "utf-8")
    await read_until(gateway, "reloaded the document")
    assert "anabranch_reload_failed 0.0" in await person.run(broken)

    busy = await person.start(load)
    assert busy.stdout is not None
    assert await busy.stdout.readexactly(4) == b"200 "
    os.killpg(gateway.pid, signal.SIGINT)  # like Ctrl-C
    async with asyncio.timeout(TIMEOUT_S):
        statuses, _ = await busy.communicate()
        await gateway.communicate()
    assert set(statuses.decode().split()) <= {"200", "503"}
    assert statuses.decode().split().count("503") > 1, "it went on serving, and said that it was not ready"
    assert gateway.returncode == 0
    assert list((person.folder / "build" / "operate").glob("*.json"))
