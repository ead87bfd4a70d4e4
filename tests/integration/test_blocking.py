"""Serving a request never blocks the event loop: no file, no name lookup, no sleep, no lock.

blockbuster raises on a blocking call in a thread with a running loop. Startup may read files; serving may not.
"""

import gzip
from collections.abc import Iterator
from pathlib import Path

import httpx
import orjson
import pytest
from blockbuster import BlockBuster, BlockingError, blockbuster_ctx

from anabranch.testing.scripted.upstream import ScriptedUpstream
from tests.support.gateway import running_gateway
from tests.support.paths import ROOT

LARGE = {"items": ["x" * 1000] * 1000}
DOCUMENT = """
version: 1
defaults: {{timeout: 5s, max_body: 2MiB}}
upstreams:
  wire: {{url: "{url}", retry: {{attempts: 2}}, breaker: {{}}, hedge: {{after: 1s}}, concurrency: {{limit: 8}}}}
  httpx: {{url: "{url}", transport: httpx}}
  named: {{url: "{named}", connect_timeout: 2s}}
  named_httpx: {{url: "{named}", transport: httpx, connect_timeout: 2s}}
  users: {{url: "{url}"}}
  orders: {{url: "{url}"}}
  dead: {{url: "http://127.0.0.1:9"}}
routers: ["tests.support.fan_routes:router"]
endpoints:
  - path: /all/{{id}}
    parameters: {{id: {{in: path, schema: {{type: integer}}}}}}
    steps:
      small: {{upstream: wire, path: "/small/{{path.id}}"}}
      next: {{upstream: wire, path: "/small/{{small.id}}", pick: [id]}}
      stock: {{upstream: httpx, path: /small/1}}
      by_name: {{upstream: named, path: /small/1}}
      by_name_stock: {{upstream: named_httpx, path: /small/1}}
      nobody: {{upstream: dead, path: /}}
  - path: /large
    steps:
      wire: {{upstream: wire, path: /large}}
      httpx: {{upstream: httpx, path: /large}}
      zipped: {{upstream: wire, path: /zipped}}
      picked: {{upstream: wire, path: /zipped, pick: [items]}}
    response: {{merge: deep}}
  - path: /large
    method: POST
    body: {{schema: {{type: object}}}}
    steps: {{echo: {{upstream: wire, path: /echo, body: "{{body}}"}}}}
  - path: /failed
    steps: {{broken: {{upstream: wire, path: /broken, required: true}}}}
"""
ROUTES = {
    "/small/{id}": {"json": {"id": 2}},
    "/large": {"json": LARGE},
    "/zipped": {"json": LARGE, "encoding": "gzip"},
    "POST /echo": {"json": {"ok": True}},
    "/broken": {"status": 500},
    "*": {"json": {"name": "Ann"}},
}


@pytest.fixture
def detector() -> Iterator[BlockBuster]:
    with blockbuster_ctx() as found:
        yield found


async def test_detector_detects(detector: BlockBuster) -> None:
    with pytest.raises(BlockingError):
        ROOT.stat()


async def test_nothing_blocks_the_loop_while_requests_are_served(tmp_path: Path) -> None:
    async with ScriptedUpstream({"routes": ROUTES}) as upstream:
        document = DOCUMENT.format(url=upstream.url, named=upstream.url.replace("127.0.0.1", "localhost"))
        async with running_gateway(document, tmp_path, allow_explain=True) as gateway, gateway.client() as client:
            await client.get("/livez")  # the client's own first connection, which reads certificates
            with blockbuster_ctx() as found:
                # A single write of a log line, which blocks only when the reader falls behind: see app/anabranch/observe/sink.py.
                found.functions["os.write"].can_block_in("app/anabranch/observe/sink.py", "write")
                await _everything(client)


async def _everything(client: httpx.AsyncClient) -> None:
    for _ in range(2):  # first on new connections, then on kept-alive ones
        response = await client.get("/all/1")
        assert response.status_code == 200
        failed = [name for name, value in response.json().items() if value is None]
        assert failed == ["nobody"], response.headers["proxy-status"]
        assert (await client.get("/all/1?_explain=true")).json()["endpoint"]
        assert (await client.get("/large")).headers["gateway-complete"] == "?1"
        body = orjson.dumps(LARGE)
        assert (await client.post("/large", content=body, headers={"content-type": "application/json"})).status_code == 200
        assert (await client.get("/profiles/ann")).status_code == 200
        statuses = {
            "/failed": 502,
            "/all/x": 400,
            "/nowhere": 404,
            "/refusing": 409,
            "/patient?seconds=x": 422,
            "/plain": 200,
            "/docs": 200,
            "/redoc": 200,
            "/docs/static/swagger-ui-bundle.js": 200,
            "/docs/static/nothing": 404,
            "/openapi.json": 200,
            "/problems": 200,
            "/problems/timeout": 200,
            "/livez": 200,
            "/readyz": 200,
        }
        assert {path: (await client.get(path)).status_code for path in statuses} == statuses
        assert (await client.delete("/all/1")).status_code == 405


def test_large_body_is_large_enough() -> None:
    assert len(orjson.dumps(LARGE)) > 1_000_000
    assert len(gzip.compress(orjson.dumps(LARGE))) < 100_000
