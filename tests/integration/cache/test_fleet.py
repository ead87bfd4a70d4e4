"""Two gateways on one Valkey: they use each other's answers, ask once, hear of purges, and go on without it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import httpx

from anabranch.cache.entries import Entries
from anabranch.cache.memory import Bounds, Memory
from anabranch.store.redis import RedisStore
from anabranch.store.settings import Place, RedisSettings
from anabranch.testing.scripted.upstream import ScriptedUpstream
from tests.support.gateway import running_gateway
from tests.support.valkey import HOST, ValkeyServer

_PREFIXES = count()
DOCUMENT = """
version: 1
store: {{redis: {{url: "redis://{host}:{port}", prefix: "{prefix}", timeout: {timeout}}}}}
upstreams: {{a: {{url: "{url}"}}}}
endpoints:
  - path: /x/{{id}}
    timeout: 10s
    steps: {{a: {{upstream: a, path: "/{{path.id}}", cache: {{tags: ["t-{{path.id}}", "{{value.tags.*}}"]}}}}}}
  - path: /x/{{id}}
    method: DELETE
    steps: {{a: {{upstream: a, path: "/{{path.id}}"}}}}
"""


@asynccontextmanager
async def two(
    upstream: ScriptedUpstream, folder: Path, server: ValkeyServer, prefix: str, timeout: str = "2s"
) -> AsyncIterator[list[httpx.AsyncClient]]:
    (folder / "one").mkdir()
    (folder / "two").mkdir()
    async with upstream:
        document = DOCUMENT.format(host=HOST, port=server.port, prefix=prefix, url=upstream.url, timeout=timeout)
        async with (
            running_gateway(document, folder / "one") as one,
            running_gateway(document, folder / "two") as other,
            one.client() as first,
            other.client() as second,
        ):
            # Services are told of the host, so it is part of the key.
            first.headers["host"] = second.headers["host"] = "gateway.test"
            yield [first, second]


async def cached(client: httpx.AsyncClient, path: str, status: str) -> None:
    """Ask until the answer is from the cache: what is stored in the background is there soon."""
    async with asyncio.timeout(20):
        while status not in (await client.get(path)).headers["cache-status"]:
            await asyncio.sleep(0.01)


async def test_gateways_share_answers_ask_once_and_hear_of_purges(valkey: ValkeyServer, tmp_path: Path) -> None:
    prefix = f"fleet{next(_PREFIXES)}:"
    upstream = ScriptedUpstream(
        {
            "GET /a": {"json": {"tags": ["u"]}, "headers": {"cache-control": "max-age=600"}},
            "GET /b": {"json": 1, "headers": {"cache-control": "max-age=600"}, "delay_s": 0.3},
            "GET /c": {"json": {}, "headers": {"cache-control": "max-age=600"}},
            "DELETE /c": {"status": 204},
        }
    )
    async with two(upstream, tmp_path, valkey, prefix) as (one, other):
        assert "stored" in (await one.get("/x/a")).headers["cache-status"]
        await cached(other, "/x/a", "hit")
        assert sum(hit.path == "/a" for hit in upstream.hits) <= 2
        # One flight for both.
        answers = await asyncio.gather(*(client.get("/x/b") for client in (one, other) for _ in range(10)))
        assert {answer.json()["a"] for answer in answers} == {1}
        assert sum(hit.path == "/b" for hit in upstream.hits) == 1
        # A purge from outside, by a tag of the answer, reaches both.
        async with RedisStore(RedisSettings(places=(Place(HOST, valkey.port),), prefix=prefix.encode(), timeout_s=2.0)) as store:
            await Entries(Memory(Bounds()), shared=store).purge(tags=["u"])
            began = time.monotonic()
            for client in (one, other):
                await cached(client, "/x/a", "fwd=uri-miss")
            assert time.monotonic() - began < 5
        # So does a change.
        await cached(one, "/x/c", "hit")
        await cached(other, "/x/c", "hit")
        await one.delete("/x/c")
        await cached(other, "/x/c", "fwd=uri-miss")


async def test_gateways_go_on_while_the_store_is_frozen(valkey: ValkeyServer, tmp_path: Path) -> None:
    upstream = ScriptedUpstream({"*": {"json": 1, "headers": {"cache-control": "max-age=600"}}})
    async with two(upstream, tmp_path, valkey, f"fleet{next(_PREFIXES)}:", timeout="100ms") as (one, _):
        await one.get("/x/a")
        valkey.freeze()
        try:
            assert "hit" in (await one.get("/x/a")).headers["cache-status"]
            slowest = 0.0
            for number in range(20):
                began = time.monotonic()
                answer = await one.get(f"/x/{number}")
                slowest = max(slowest, time.monotonic() - began)
                assert (answer.status_code, answer.json()) == (200, {"a": 1})
            assert slowest < 5
        finally:
            valkey.thaw()
