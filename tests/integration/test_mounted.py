"""The gateway as part of another application, and where nobody runs its lifespan."""

import asyncio
import logging
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from anabranch import Settings, create_app
from anabranch.errors import ConfigError
from anabranch.testing.scripted.upstream import ScriptedUpstream
from anabranch.testing.serving import LOOPBACK, serve
from tests.support.leaks import no_leaks

DOCUMENT = """
version: 1
upstreams: {{a: {{url: "{url}"}}}}
routers: ["routes_to_mount:router"]
journal: {{keep_age: 1d}}
endpoints:
  - {{path: "/flights/{{id}}", name: flight, steps: {{s: {{upstream: a, path: "/f/{{path.id}}"}}}}, journal: true}}
  - {{path: /broken, steps: {{s: {{upstream: a, path: /broken, required: true}}}}}}
"""
ROUTES = """
from anabranch import Fan
from fastapi import APIRouter

router = APIRouter()

@router.get("/from-python")
async def read(fan: Fan) -> dict[str, int]:
    return {"s": await fan.get("a", "/python")}
"""
SCRIPT = {"/broken": {"status": 500}, "*": {"json": 1}}


@pytest.fixture
async def document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANABRANCH_RELOAD", "off")
    (tmp_path / "routes_to_mount.py").write_text(ROUTES, "utf-8")
    async with ScriptedUpstream(SCRIPT) as upstream:
        path = tmp_path / "gateway.yaml"
        path.write_text(DOCUMENT.format(url=upstream.url), "utf-8")
        yield path


def client_of(port: int) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://{LOOPBACK}:{port}", timeout=60)


async def check_mounted(client: httpx.AsyncClient) -> None:
    """Everything works below /bff, and what is shown to people and tools leads there."""
    assert (await client.get("/own")).json() == "theirs"
    assert (await client.get("/bff/flights/7")).json() == {"s": 1}
    assert (await client.get("/bff/from-python")).json() == {"s": 1}
    assert (await client.get("/flights/7")).status_code == 404
    assert (await client.get("/bff/readyz")).json()["status"] == "ready"
    broken = await client.get("/bff/broken")
    assert (broken.status_code, broken.json()["type"]) == (502, "/bff/problems/upstream_status")
    assert (await client.get(broken.json()["type"])).status_code == 200
    page = (await client.get("/bff/docs")).text
    for link in re.findall(r"""(?:href|src|url)[=:]\s*["']([^"']+)""", page):
        shown = await client.get(httpx.URL(f"{client.base_url}/bff/docs").join(link))
        assert shown.status_code == 200, link
    described = (await client.get("/bff/openapi.json")).json()
    assert described["servers"] == [{"url": "/bff"}]
    assert "/flights/{id}" in described["paths"]


async def test_mounted_gateway_opens_itself_and_is_closed_with_the_event_loop(document: Path) -> None:
    main = FastAPI()
    main.add_api_route("/own", lambda: "theirs")
    main.mount("/bff", create_app(document))

    async def run() -> None:
        async with serve(main) as port, client_of(port) as client:
            await check_mounted(client)

    await asyncio.to_thread(asyncio.run, run())
    assert [path.suffix for path in (document.parent / "journal").glob("*.jsonl*")] == [".zst"]  # closed, not merely cut off


async def test_mounted_gateway_is_opened_and_closed_by_the_lifespan_of_the_application(document: Path) -> None:
    gateway = create_app(str(document))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with gateway.opened():
            yield

    main = FastAPI(lifespan=lifespan)
    main.add_api_route("/own", lambda: "theirs")
    main.mount("/bff", gateway)
    async with no_leaks(), serve(main) as port, client_of(port) as client:
        await check_mounted(client)


async def test_bare_transport_and_requests_side_by_side_open_it_once(document: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "anabranch")
    gateway = create_app(document)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(gateway), base_url="http://gateway") as client:
        replies = await asyncio.gather(*(client.get(f"/flights/{number}") for number in range(5)))
        assert [reply.json() for reply in replies] == [{"s": 1}] * 5
    assert sum("opened at the first request" in record.getMessage() for record in caplog.records) == 1


async def test_each_event_loop_gets_a_gateway_of_its_own(document: Path) -> None:
    """Starlette's TestClient without `with` runs each request in a new loop."""
    gateway = create_app(document)

    def ask() -> None:
        client = TestClient(gateway)
        for _ in range(2):
            assert client.get("/flights/7").json() == {"s": 1}
        for _ in range(2):
            with TestClient(gateway) as whole:
                assert whole.get("/flights/7").json() == {"s": 1}
                assert whole.get("/from-python").json() == {"s": 1}

    await asyncio.to_thread(ask)


async def test_gateway_that_cannot_be_opened_says_so_and_is_tried_again(document: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        gateway = create_app(Settings(document=document, admin_port=port))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(gateway), base_url="http://gateway") as client:
            refused = await client.get("/flights/7", headers={"x-request-id": "r-1"})
            assert (refused.status_code, refused.headers["content-type"]) == (500, "application/problem+json")
            assert refused.headers["x-request-id"] == "r-1"
            assert f"the admin server cannot listen on 127.0.0.1 port {port}" in caplog.text
            taken.close()
            assert (await client.get("/flights/7")).json() == {"s": 1}


def test_settings_come_from_the_environment_when_none_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "gateway.yaml"
    path.write_text("version: 1\nupstreams: {a: {url: http://127.0.0.1:1}}\nendpoints: [{path: /a, steps: {s: {upstream: a, path: /}}}]\n")
    monkeypatch.setenv("ANABRANCH_DOCUMENT", str(path))
    monkeypatch.setenv("ANABRANCH_DOCS", "false")
    gateway = create_app()
    assert [endpoint.path for endpoint in gateway.plane.document.endpoints] == ["/a"]  # type: ignore[union-attr]
    assert "/docs" not in {getattr(route, "path", None) for route in gateway.routes}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ANABRANCH_MAX_REQUESTS", "many", "settings: ANABRANCH_MAX_REQUESTS: input should be a valid integer"),
        ("ANABRANCH_DOCUMENT", "nowhere.yaml", "nowhere.yaml"),
    ],
)
def test_unusable_settings_are_one_clear_error(
    name: str, value: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as raised:
        create_app()
    assert message in str(raised.value)
