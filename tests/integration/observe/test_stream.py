"""The log of a running process: one stream, one event for each line. Also the command that shows its timings."""

import asyncio
import json
import os
import re
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.support.paths import ROOT

TIMEOUT_S = 60.0
COMMAND = (sys.executable, "-m", "anabranch")
DOCUMENT = """\
version: 1
upstreams: {a: {url: "http://127.0.0.1:9", headers: {authorization: "Bearer ${A_TOKEN}"}}}
endpoints: [{path: "/things/{id}", name: thing, steps: {s: {upstream: a, path: /}}}]
"""


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANABRANCH_", "OTEL_"))}
    return {**kept, "A_TOKEN": "very-secret", "ANABRANCH_RELOAD": "signal", **variables}


@asynccontextmanager
async def running(folder: Path, **variables: str) -> AsyncIterator[tuple[Process, list[dict[str, Any]]]]:
    """The process, and the events that it logged until it printed its address."""
    document = folder / "gateway.yaml"
    document.write_text(DOCUMENT, "utf-8")
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, "run", str(document), "--port", "0"),
        cwd=ROOT,
        env=environment(ANABRANCH_LOG_FORMAT="json", **variables),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        events: list[dict[str, Any]] = []
        async with asyncio.timeout(TIMEOUT_S):
            while not any(" serves " in event["event"] for event in events):
                events.append(await event_of(process))
        yield process, events
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def event_of(process: Process) -> dict[str, Any]:
    assert process.stderr is not None
    line = await process.stderr.readline()
    assert line, "the process ended"
    event: dict[str, Any] = json.loads(line)
    return event


def address(events: list[dict[str, Any]]) -> str:
    found = re.search(r"http://[^ ]+", events[-1]["event"])
    assert found is not None
    return found[0]


def admin_port(events: list[dict[str, Any]]) -> int:
    (port,) = [int(event["event"].rpartition(" ")[2]) for event in events if event["event"].startswith("the admin server listens on")]
    return port


async def test_every_log_line_is_an_event_without_secrets(tmp_path: Path) -> None:
    async with running(tmp_path, ANABRANCH_ACCESS_LOG="all", ANABRANCH_LOG_LEVEL="debug") as (process, before):
        async with httpx.AsyncClient(base_url=address(before), timeout=60) as client:
            await client.get("/things/%0a%7b%7d?key=very-secret")
        event = await event_of(process)
        while event["event"] != "request":
            event = await event_of(process)
        assert (event["path"], event["status"], event["level"]) == ("/things/\n{}", 502, "error")
        assert event["steps"][0]["reason"] == "connect_failed"
        (tmp_path / "gateway.yaml").write_text(DOCUMENT.replace("upstream: a", "upstream: very-secret"), "utf-8")
        process.send_signal(1)
        events = [event, await event_of(process)]
        while "not usable" not in events[-1]["event"]:
            events.append(await event_of(process))
        process.terminate()
        assert process.stderr is not None
        rest = [json.loads(line) for line in (await process.stderr.read()).splitlines()]
        assert "very-secret" not in json.dumps([*before, *events, *rest])
        assert await process.wait() == 0


async def test_requests_are_served_when_the_log_is_not_read(tmp_path: Path) -> None:
    async with running(tmp_path, ANABRANCH_ACCESS_LOG="all", ANABRANCH_ADMIN_PORT="0") as (process, events):
        process._transport.get_pipe_transport(2).close()  # type: ignore[attr-defined]
        async with httpx.AsyncClient(base_url=address(events), timeout=60) as client:
            for _ in range(3):
                assert (await client.get("/things/1")).status_code == 502
            metrics = (await client.get(f"http://127.0.0.1:{admin_port(events)}/metrics")).text
        assert "anabranch_log_lines_lost_total 3.0" in metrics
        process.terminate()
        assert await process.wait() == 0


async def test_top_shows_the_figures_of_a_running_gateway(tmp_path: Path) -> None:
    token = "correct horse"
    async with running(tmp_path, ANABRANCH_ADMIN_PORT="0", ANABRANCH_ADMIN_TOKEN=token) as (process, events):
        async with httpx.AsyncClient(base_url=address(events), timeout=60) as client:
            await client.get("/things/1")
        url = f"http://127.0.0.1:{admin_port(events)}"
        port = str(admin_port(events))
        shown = await top("--once", ANABRANCH_ADMIN_TOKEN=token, ANABRANCH_ADMIN_PORT=port, COLUMNS="120")
        assert shown.returncode == 0
        assert re.search(r"thing +│ +1 │ +1 │", shown.stdout)
        refused = await top("--url", url, "--once")
        assert (refused.returncode, refused.stderr) == (1, f"{url} answered 401; set ANABRANCH_ADMIN_TOKEN to its token\n")
        process.terminate()
        await process.wait()


async def test_top_without_an_address_explains_what_to_do(tmp_path: Path) -> None:
    done = await top("--once")
    assert done.returncode == 2
    assert "no admin address: pass --url or set ANABRANCH_ADMIN_PORT" in done.stderr


async def top(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        [*COMMAND, "top", *arguments],
        cwd=ROOT,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_disabled_tracing_loads_nothing(tmp_path: Path) -> None:
    document = tmp_path / "gateway.yaml"
    document.write_text(DOCUMENT, "utf-8")
    code = f"""
import sys
from pathlib import Path
from anabranch.main import create_app
from anabranch.settings import Settings
create_app(Settings(document=Path({str(document)!r})))
sys.exit(bool({{"opentelemetry.sdk", "opentelemetry.exporter", "google.protobuf"}} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), timeout=TIMEOUT_S, check=False).returncode == 0
