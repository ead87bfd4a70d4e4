"""`/admin/cache`, and the purge of a fleet: gateways that share a store, and workers that share nothing."""

from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from anabranch.cache.entries import Entries
from anabranch.cache.entry import Entry
from anabranch.cache.memory import Bounds, Memory
from anabranch.server.admin.cache import purger, routes
from anabranch.server.peers import PeerResult
from anabranch.store.memory import MemoryStore
from anabranch.store.seam import Store, StoreAway
from tests.support.policies import answer

STORED = {"/u/1": ("u-1",), "/u/2": ("u-2", "x"), "/v": ()}


def _reloader(entries: Entries) -> Any:
    return SimpleNamespace(service=SimpleNamespace(entries=entries))


class Gateway:
    """The entries of a gateway, and its admin server."""

    def __init__(self, store: Store | None = None, others: Any = None) -> None:
        self.entries = Entries(Memory(Bounds()), shared=store, clock=lambda: 200.0)
        self.reloader = _reloader(self.entries)
        self._app = Starlette(routes=routes(self.reloader, others))
        for path, tags in STORED.items():
            key = path.encode()
            self.entries.memory.put(Entry(key, "a", path, answer(200, b"1"), 100.0, 100.0, 260.0, 0.0, 0.0, True, False, b"", b"", tags))

    async def ask(self, method: str, query: str = "") -> tuple[int, dict[str, Any]]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self._app), base_url="http://admin") as client:
            found = await client.request(method, f"/admin/cache{query}")
        return found.status_code, found.json()

    @property
    def paths(self) -> set[str]:
        return {listed.path for listed in self.entries.ls()}


class Workers:
    """The other workers of a gateway. `silent`: says nothing."""

    number = 1

    def __init__(self, *gateways: Gateway, silent: int | None = None, is_lost: bool = False) -> None:
        self.gateways = gateways
        self.silent = silent
        self.is_lost = is_lost

    async def ask(self, order: str, argument: object = None) -> dict[int, PeerResult] | None:
        assert order == "purge"
        outcomes = {number: await purger(gateway.reloader)(argument) for number, gateway in zip((0, 2), self.gateways, strict=False)}
        if self.silent is not None:
            outcomes[self.silent] = {"result": "no answer"}
        return None if self.is_lost else outcomes


class Away(MemoryStore):
    async def put(self, key: bytes, value: bytes, ttl_s: float) -> None:
        raise StoreAway

    async def publish(self, channel: bytes, message: bytes) -> None:
        raise StoreAway


async def test_a_list_shows_what_is_stored_and_no_bodies() -> None:
    status, report = await Gateway().ask("GET")
    assert (status, report["worker"], report["count"]) == (200, None, 3)
    assert report["size_bytes"] == sum(entry["size_bytes"] for entry in report["entries"])
    first = {name: value for name, value in report["entries"][0].items() if name != "size_bytes"}
    assert first == {"upstream": "a", "path": "/v", "status": 200, "age_s": 100.0, "fresh_s": 60.0, "tags": []}


@pytest.mark.parametrize(
    ("query", "paths"),
    [
        ("?tag=x", ["/u/2"]),
        ("?path=/u/*", ["/u/2", "/u/1"]),
        ("?path=/v&tag=u-1", ["/v", "/u/1"]),
        ("?upstream=a&limit=1", ["/v"]),
        ("?upstream=b", []),
        ("?tag=u", []),
    ],
)
async def test_a_list_can_be_narrowed(query: str, paths: list[str]) -> None:
    _, report = await Gateway().ask("GET", query)
    assert [entry["path"] for entry in report["entries"]] == paths


@pytest.mark.parametrize(
    ("query", "purged", "left"),
    [
        ("?tag=x", 1, {"/u/1", "/v"}),
        ("?path=/u/*", 2, {"/v"}),
        ("?tag=u-1&tag=x&path=/v", 3, set()),
        ("", 3, set()),
        ("?path=/u", 0, set(STORED)),
    ],
)
async def test_a_purge_removes_what_it_names(query: str, purged: int, left: set[str]) -> None:
    gateway = Gateway()
    assert await gateway.ask("DELETE", query) == (200, {"purged": purged, "shared": None, "complete": True})
    assert gateway.paths == left


@pytest.mark.parametrize(
    "query",
    ["?tags=x", "?tag=", "?path=u", "?path=/u?a=1".replace("?a", "%3Fa"), "?upstream=a", "?tag=" + "x" * 2049, "?tag=x" + "&tag=x" * 100],
)
async def test_a_purge_of_something_unclear_removes_nothing(query: str) -> None:
    gateway = Gateway()
    status, report = await gateway.ask("DELETE", query)
    assert (status, report["type"]) == (400, "/problems/invalid_parameters")
    assert gateway.paths == set(STORED)


@pytest.mark.parametrize("query", ["?limit=0", "?limit=x", "?limit=10001", "?other=1"])
async def test_a_list_of_something_unclear_is_refused(query: str) -> None:
    assert (await Gateway().ask("GET", query))[0] == 400


async def test_a_purge_reaches_every_gateway_that_shares_the_store() -> None:
    store = MemoryStore()
    one, other, alone = Gateway(store), Gateway(store), Gateway()
    async with AsyncExitStack() as exits:
        for gateway in (one, other):
            await exits.enter_async_context(gateway.entries)
        assert await one.ask("DELETE", "?tag=x") == (200, {"purged": 1, "shared": "told", "complete": True})
        assert (one.paths, other.paths, alone.paths) == ({"/u/1", "/v"}, {"/u/1", "/v"}, set(STORED))


async def test_a_purge_without_the_store_is_not_complete() -> None:
    gateway = Gateway(Away())
    assert await gateway.ask("DELETE", "?tag=x") == (503, {"purged": 1, "shared": "away", "complete": False})
    assert gateway.paths == {"/u/1", "/v"}


async def test_a_purge_reaches_all_workers() -> None:
    workers = (Gateway(), Gateway())
    asked = Gateway(others=Workers(*workers))
    status, report = await asked.ask("DELETE", "?path=/u/*")
    assert (status, report["purged"], report["complete"]) == (200, 6, True)
    assert report["workers"] == [{"worker": number, "result": "ok", "purged": 2} for number in (0, 1, 2)]
    assert [gateway.paths for gateway in (asked, *workers)] == [{"/v"}] * 3


@pytest.mark.parametrize("others", [Workers(silent=2), Workers(is_lost=True)])
async def test_a_purge_that_a_worker_did_not_report_is_not_complete(others: Workers) -> None:
    status, report = await Gateway(others=others).ask("DELETE")
    assert (status, report["purged"], report["complete"]) == (504, 3, False)
