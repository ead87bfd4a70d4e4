"""The admin servers of several workers: a reload at one worker reaches all and reports their results; readiness is per worker."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from anabranch.testing.serving import LOOPBACK
from tests.support.command import PATIENCE_S, Command, running_command

DOCUMENT = "version: 1\ntitle: {title}\nupstreams: {{u: {{url: 'http://127.0.0.1:9'}}}}\nendpoints: [{{path: /a, steps: {{s: {{upstream: u, path: /}}}}}}]\n"


class Workers:
    """Two workers. `admins`: a client of each one's admin server."""

    def __init__(self, command: Command, document: Path, admins: list[httpx.AsyncClient]) -> None:
        self.command = command
        self.document = document
        self.admins = admins

    def write(self, title: str) -> None:
        self.document.write_text(DOCUMENT.format(title=title), "utf-8")

    async def states(self) -> list[dict[str, Any]]:
        return [(await admin.get("/admin/reload")).json() for admin in self.admins]


@asynccontextmanager
async def two_workers(folder: Path, **variables: str) -> AsyncIterator[Workers]:
    path = folder / "gateway.yaml"
    path.write_text(DOCUMENT.format(title="first"), "utf-8")
    async with running_command(path, "--workers", "2", ANABRANCH_RELOAD="off", ANABRANCH_ADMIN_PORT="0", **variables) as command:
        ports = [found[1] for line in command.said if (found := re.search(r"the admin server listens on \S+ port (\d+)", line))]
        assert len(ports) == 2
        admins = [httpx.AsyncClient(base_url=f"http://{LOOPBACK}:{port}", timeout=60) for port in ports]
        yield Workers(command, path, admins)
        for admin in admins:
            await admin.aclose()
        command.process.terminate()
        assert await command.ended() == 0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def workers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Workers]:
    """Two workers, which the tests of this module share."""
    async with two_workers(tmp_path_factory.mktemp("shared")) as shared:
        yield shared


@pytest.mark.asyncio(loop_scope="module")
async def test_reload_of_one_worker_reaches_all(workers: Workers) -> None:
    for admin in workers.admins:
        before = [state["generation"] for state in await workers.states()]
        workers.write(f"after {before}")
        answer = await admin.post("/admin/reload")
        assert answer.status_code == 200
        told = answer.json()["workers"]
        assert [(one["worker"], one["result"]) for one in told] == [(0, "ok"), (1, "ok")]
        states = await workers.states()
        assert [one["generation"] for one in told] == [one["generation"] for one in states] == [one + 1 for one in before]
        assert {one["digest"] for one in told} == {state["digest"] for state in states} == {answer.json()["digest"]}
        assert [state["last"]["trigger"] for state in states] == ["admin", "admin"]


@pytest.mark.asyncio(loop_scope="module")
async def test_every_worker_says_which_one_it_is_and_purges_with_the_others(workers: Workers) -> None:
    for admin in workers.admins:
        answer = await admin.delete("/admin/cache", params={"tag": "user-1"})
        told = [{"worker": number, "result": "ok", "purged": 0} for number in (0, 1)]
        assert (answer.status_code, answer.json()) == (200, {"purged": 0, "shared": None, "workers": told, "complete": True})
    abouts = [(await admin.get("/admin")).json() for admin in workers.admins]
    assert {about["worker"] for about in abouts} == {0, 1}
    assert len({about["process"] for about in abouts}) == 2
    timings = [(await admin.get("/admin/timings")).json() for admin in workers.admins]
    assert [each["worker"] for each in timings] == [about["worker"] for about in abouts]
    lines = [json.loads(line) for line in workers.command.said if "admin server listens" in line]
    assert {line["worker"] for line in lines} == {0, 1}


@pytest.mark.asyncio(loop_scope="module")
async def test_unusable_document_changes_nothing_in_any_worker(workers: Workers) -> None:
    before = await workers.states()
    good = workers.document.read_text("utf-8")
    workers.document.write_text("version: 1\nendpoints: [", "utf-8")
    answer = await workers.admins[0].post("/admin/reload")
    assert answer.status_code == 422
    assert answer.json()["last"]["problems"]
    assert [one["result"] for one in answer.json()["workers"]] == ["failed"]
    asked, other = await workers.states()
    assert (asked["digest"], asked["generation"]) == (before[0]["digest"], before[0]["generation"])
    assert asked["failed"] == before[0]["failed"] + 1
    assert other == before[1]
    # Readiness is per worker: the worker that has read the bad document reports it and stays ready.
    shown = [(await admin.get("/readyz")) for admin in workers.admins]
    assert [one.status_code for one in shown] == [200, 200]
    assert [len(one.json()["reasons"]) for one in shown] == [1, 0]
    workers.document.write_text(good, "utf-8")
    assert (await workers.admins[0].post("/admin/reload")).status_code == 200


async def test_shutdown_makes_every_worker_not_ready_at_once(tmp_path: Path) -> None:
    async with two_workers(tmp_path, ANABRANCH_DRAIN_DELAY_S="600") as workers:
        assert [(await admin.get("/readyz")).status_code for admin in workers.admins] == [200, 200]
        workers.command.process.terminate()
        for admin in workers.admins:
            async with asyncio.timeout(PATIENCE_S):
                while (answer := await admin.get("/readyz")).status_code == 200:
                    await asyncio.sleep(0.01)
            assert (answer.status_code, answer.json()["reasons"]) == (503, ["the gateway is stopping"])
        # A reload does not wait for a worker that is stopping.
        answer = await workers.admins[0].post("/admin/reload")
        assert (answer.status_code, len(answer.json()["workers"])) == (504, 1)
