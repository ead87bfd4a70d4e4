"""Reloads of a complete gateway: no request fails or mixes documents, nothing is leaked, and a bad document changes nothing."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from anabranch.document.reload import ReloadState
from anabranch.main import Process, assemble
from anabranch.settings import Settings
from anabranch.testing.serving import LOOPBACK, serve
from tests.support.leaks import no_leaks, open_sockets
from tests.support.load import Reply, under_load
from tests.support.stamped import BROKEN, DOCUMENT, service

RELOADS = 50
CLIENTS = 64


@asynccontextmanager
async def stamped(folder: Path, **settings: Any) -> AsyncIterator[tuple[Process, int, Path, int]]:
    """A gateway on a document with stamp 0: the application, its port, the document, and the port of the service behind it."""
    async with serve(pausing) as upstream:
        path = folder / "gateway.yaml"
        path.write_text(DOCUMENT.format(port=upstream, stamp=0), "utf-8")
        process = assemble(Settings(document=path, **{"reload": "off", **settings}))
        async with serve(process.app) as port:
            yield process, port, path, upstream


async def pausing(scope: Scope, receive: Receive, send: Send) -> None:
    """A service that waits 20 ms, so that most requests see a reload and the compiler gets its share of the processor."""
    if scope["type"] == "http":
        await asyncio.sleep(0.02)
    await service(scope, receive, send)


def stamps_of(reply: Reply) -> set[str]:
    """Every stamp in an answer of the document's endpoint."""
    first, second = reply.json["first"], reply.json["second"]
    queried = dict(pair.split("=") for pair in second["query"].split("&"))
    return {reply.headers["x-stamp"], first["header"], first["path"].strip("/"), second["header"], queried["after"], queried["stamp"]}


async def test_every_response_under_load_comes_from_one_document_and_none_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    async with no_leaks(), stamped(tmp_path) as (process, port, path, upstream):
        reloader = process.reloader
        async with under_load(port, "/python", clients=8) as python, under_load(port, "/document", clients=CLIENTS - 8) as load:
            await load.more(CLIENTS)
            for number in range(1, RELOADS + 1):
                text = DOCUMENT.format(port=upstream, stamp=number) if number % 2 else BROKEN[number % len(BROKEN)]
                path.write_text(text, "utf-8")
                state = await reloader.reload("test")
                assert state.is_failed is (number % 2 == 0)
                await load.more(4)
            await load.more(CLIENTS)
            sockets_then = len(open_sockets())
        async with asyncio.timeout(60):
            while reloader._retiring:
                await asyncio.sleep(0.01)
        assert (reloader.state.succeeded, reloader.state.failed, reloader.state.generation) == (
            RELOADS // 2,
            RELOADS // 2,
            RELOADS // 2 + 1,
        )
        # Sockets of the clients, of the gateway's side, and both ends of as many connections to two upstreams; old services keep none.
        assert sockets_then <= 2 * CLIENTS + 2 * 2 * CLIENTS + 2 * 2 * CLIENTS
        async with asyncio.timeout(60):
            while len(asyncio.all_tasks()) >= 30:  # no requests are sent any more
                await asyncio.sleep(0.01)
    assert {reply.status for reply in [*load.replies, *python.replies]} == {200}
    for reply in load.replies:
        assert len(stamps_of(reply)) == 1, reply
    for reply in python.replies:
        assert len(set(reply.json)) == 1, reply
    seen = {reply.headers["x-stamp"] for reply in load.replies}
    assert len(seen) > RELOADS // 4, "the load saw too few of the documents to show anything"


async def test_bad_document_changes_nothing_and_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with stamped(tmp_path) as (process, port, path, _), httpx.AsyncClient(base_url=f"http://{LOOPBACK}:{port}", timeout=60) as client:
        reloader = process.reloader
        told: list[ReloadState] = []
        reloader.observe(told.append)
        before = reloader.state
        path.write_text("version: 1\nupstreams: {one: {url: 'ftp://a', timout: 1s}}\nendpoints: [{path: x}]\n", "utf-8")
        state = await reloader.reload("test")
        assert (state.result, state.trigger, state.failed, state.generation) == ("failed", "test", 1, 1)
        assert state.digest == before.digest
        assert len(state.problems) >= 3
        assert told == [state]
        for problem in state.problems:
            assert str(problem) in caplog.text
        assert "the old one stays in force" in caplog.text
        assert (await client.get("/document")).headers["x-stamp"] == "0"
        ready = await client.get("/readyz")
    assert ready.status_code == 200
    assert any("not usable" in reason for reason in ready.json()["reasons"])


async def test_good_document_after_a_bad_one_clears_the_report(tmp_path: Path) -> None:
    async with (
        stamped(tmp_path) as (process, port, path, upstream),
        httpx.AsyncClient(base_url=f"http://{LOOPBACK}:{port}", timeout=60) as client,
    ):
        path.write_text(BROKEN[0], "utf-8")
        assert (await process.reloader.reload("test")).is_failed
        path.write_text(DOCUMENT.format(port=upstream, stamp=1), "utf-8")
        state = await process.reloader.reload("test")
        assert (state.result, state.problems, state.generation) == ("ok", (), 2)
        assert (await client.get("/readyz")).json() == {"status": "ready", "reasons": []}
        assert (await client.get("/document")).headers["x-stamp"] == "1"


async def test_request_in_flight_completes_with_the_document_it_started_with(tmp_path: Path) -> None:
    held: asyncio.Event = asyncio.Event()
    arrived: asyncio.Event = asyncio.Event()

    async def holding(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] in ("/0", "/first"):
            arrived.set()
            await held.wait()
        await service(scope, receive, send)

    path = tmp_path / "gateway.yaml"
    async with no_leaks(), serve(holding) as upstream:
        path.write_text(DOCUMENT.format(port=upstream, stamp=0), "utf-8")
        process = assemble(Settings(document=path, reload="off"))
        async with serve(process.app) as port, httpx.AsyncClient(base_url=f"http://{LOOPBACK}:{port}", timeout=60) as client:
            for target in ("/document", "/python"):
                asked = asyncio.create_task(client.get(target))
                await arrived.wait()
                path.write_text(DOCUMENT.format(port=upstream, stamp=1), "utf-8")
                await process.reloader.reload("test")
                held.set()
                old = await asked
                assert old.status_code == 200
                if target == "/document":
                    assert (old.headers["x-stamp"], old.json()["second"]["header"]) == ("0", "0")
                else:
                    assert old.json() == ["0", "0"]
                assert (await client.get("/document")).headers["x-stamp"] == "1"
                path.write_text(DOCUMENT.format(port=upstream, stamp=0), "utf-8")
                await process.reloader.reload("test")
                held.clear()
                arrived.clear()


async def test_changed_python_routes_are_a_warning(tmp_path: Path) -> None:
    async with stamped(tmp_path) as (process, _, path, upstream):
        path.write_text(DOCUMENT.format(port=upstream, stamp=1).replace('["tests.support.stamped:router"]', "[]"), "utf-8")
        state = await process.reloader.reload("test")
    assert state.result == "ok"
    assert [warning.message for warning in state.warnings] == ["changes to routers take effect when the gateway is restarted"]


async def test_api_description_follows_the_document(tmp_path: Path) -> None:
    async with (
        stamped(tmp_path) as (process, port, path, upstream),
        httpx.AsyncClient(base_url=f"http://{LOOPBACK}:{port}", timeout=60) as client,
    ):
        path.write_text(DOCUMENT.format(port=upstream, stamp=1) + "title: Renamed\n", "utf-8")
        await process.reloader.reload("test")
        assert (await client.get("/openapi.json")).json()["info"]["title"] == "Renamed"


@pytest.mark.parametrize("is_swapped", [False, True], ids=["written in place", "swapped as Kubernetes does"])
async def test_change_on_disk_is_loaded(tmp_path: Path, is_swapped: bool) -> None:
    """A ConfigMap's file is a symbolic link into `..data`, which is itself a link to a folder with a date in its name."""
    async with no_leaks(), serve(service) as upstream:
        documents = [DOCUMENT.format(port=upstream, stamp=stamp) for stamp in range(2)]
        mounted = tmp_path / "mounted"
        mounted.mkdir()
        path = mounted / "gateway.yaml"
        if is_swapped:
            first = mounted / "..2026_01"
            first.mkdir()
            (first / "gateway.yaml").write_text(documents[0], "utf-8")
            (mounted / "..data").symlink_to(first.name)
            path.symlink_to("..data/gateway.yaml")
        else:
            path.write_text(documents[0], "utf-8")
        process = assemble(Settings(document=mounted, reload="watch"))
        reloaded = asyncio.Event()
        process.reloader.observe(lambda _: reloaded.set())
        async with serve(process.app) as port, httpx.AsyncClient(base_url=f"http://{LOOPBACK}:{port}", timeout=60) as client:
            assert (await client.get("/document")).headers["x-stamp"] == "0"
            if is_swapped:
                second = mounted / "..2026_02"
                second.mkdir()
                (second / "gateway.yaml").write_text(documents[1], "utf-8")
                (mounted / "..data_tmp").symlink_to(second.name)
                (mounted / "..data_tmp").rename(mounted / "..data")
            else:
                path.write_text(documents[1], "utf-8")
            async with asyncio.timeout(60):
                await reloaded.wait()
            assert process.reloader.state.trigger == "watch"
            assert (await client.get("/document")).headers["x-stamp"] == "1"
