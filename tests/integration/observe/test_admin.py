"""The admin server beside the public port, and which page is on which."""

import os
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from anabranch.errors import ConfigError, StartError
from anabranch.main import assemble, create_app
from anabranch.settings import Settings
from anabranch.testing.scripted.upstream import ScriptedUpstream
from anabranch.testing.serving import LOOPBACK, serve
from anabranch.testing.specs.run import problems_of
from tests.support.gateway import admin_port_of

DOCUMENT = """\
version: 1
upstreams:
  a: {{url: "{url}"}}
  b: {{url: "{url}", breaker: {{minimum_calls: 2, open_for: 1m}}}}
  c: {{urls: ["{url}", "{url}/c"], breaker: {{minimum_calls: 2}}, transport: httpx, follow_redirects: 2}}
endpoints:
  - {{path: "/things/{{id}}", name: thing, steps: {{s: {{upstream: a, path: "/{{path.id}}"}}, t: {{upstream: c, path: /c}}}}}}
  - {{path: /b, steps: {{s: {{upstream: b, path: /bad}}}}}}
routers: []
"""
TOKEN = "correct horse battery staple"


class Gateways:
    """A gateway with its admin server. `public`, `admin`: clients of both."""

    def __init__(self, public: httpx.AsyncClient, admin: httpx.AsyncClient) -> None:
        self.public = public
        self.admin = admin


class Running:
    """Starts it; `settings` as in `Settings`."""

    def __init__(self, tmp_path: Path, upstream: ScriptedUpstream, **settings: Any) -> None:
        path = tmp_path / "gateway.yaml"
        path.write_text(DOCUMENT.format(url=upstream.url), "utf-8")
        self._process = assemble(Settings(document=path, admin_port=0, access_log="off", reload="off", **settings))

    async def __aenter__(self) -> Gateways:
        self._serving = serve(self._process.app)
        port = await self._serving.__aenter__()
        self._clients = Gateways(
            httpx.AsyncClient(base_url=f"http://{LOOPBACK}:{port}", timeout=60),
            httpx.AsyncClient(base_url=f"http://{LOOPBACK}:{admin_port_of(self._process)}", timeout=60),
        )
        return self._clients

    async def __aexit__(self, *_: object) -> None:
        await self._clients.public.aclose()
        await self._clients.admin.aclose()
        await self._serving.__aexit__(None, None, None)


@pytest.fixture
async def upstream() -> Any:
    async with ScriptedUpstream({"/bad": {"status": 500}, "*": {"json": {"x": 1}}}) as made:
        yield made


async def test_public_port_has_no_admin_pages(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    async with Running(tmp_path, upstream) as gateway:
        for path in ("/metrics", "/admin", "/admin/timings", "/admin/explain/things/7", "/admin/reload"):
            assert (await gateway.public.get(path)).status_code == 404, path
        for path in ("/livez", "/readyz", "/openapi.json"):
            assert (await gateway.public.get(path)).status_code == 200, path


async def test_admin_port_has_metrics_timings_and_health(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    async with Running(tmp_path, upstream) as gateway:
        assert (await gateway.public.get("/things/7")).status_code == 200
        assert (await gateway.public.get("/nothing/here")).status_code == 404
        metrics = (await gateway.admin.get("/metrics")).text
        assert 'anabranch_requests_total{complete="true",endpoint="thing",status="200"} 1.0' in metrics
        assert 'anabranch_requests_total{complete="none",endpoint="none",status="404"} 1.0' in metrics
        assert 'anabranch_attempts_total{reason="200",upstream="a"} 1.0' in metrics
        assert 'anabranch_connections_idle{upstream="a"} 1.0' in metrics
        assert 'anabranch_connections_open{upstream="c"} 1.0' in metrics
        assert metrics.count('anabranch_breaker_state{address="http') == 2
        timings = (await gateway.admin.get("/admin/timings")).json()
        assert [(one["endpoint"], one["recent"]["count"]) for one in timings["endpoints"]] == [("thing", 1), ("get_b", 0)]
        assert (await gateway.admin.get("/readyz")).json() == {"status": "ready", "reasons": []}
        about = (await gateway.admin.get("/admin")).json()
        assert {"/admin", "/admin/timings", "/admin/reload", "/admin/explain/{path}", "/metrics", "/livez", "/readyz"} <= {*about["paths"]}
        assert (about["worker"], about["process"], about["code"]) == (None, os.getpid(), "")
        assert about["document"] == (await gateway.admin.get("/admin/reload")).json()["digest"]
        for path in about["paths"]:
            found = await gateway.admin.get(path.replace("{path}", "things/7").replace("{record_id}", "none"))
            assert found.status_code == 200 or (found.headers["content-type"] == "application/problem+json" and "{record_id}" in path), path
        assert (await gateway.admin.get("/things/7")).status_code == 404


async def test_admin_port_explains_a_request(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    async with Running(tmp_path, upstream) as gateway:
        shown = (await gateway.admin.get("/admin/explain/things/a%2Fb")).json()
        assert (shown["endpoint"], shown["steps"][0]["state"]) == ("thing", "ok")
        assert upstream.hits[0].path == "/a%2Fb" or upstream.hits[1].path == "/a%2Fb"
        assert (await gateway.admin.get("/admin/explain/nothing")).status_code == 404


async def test_token_is_required_except_for_probes(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    async with Running(tmp_path, upstream, admin_token=TOKEN) as gateway:
        for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": TOKEN}, {"authorization": f"Basic {TOKEN}"}):
            refused = await gateway.admin.get("/metrics", headers=given)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == 'Bearer realm="anabranch admin"'
            assert TOKEN not in refused.text
        assert (await gateway.admin.get("/metrics", headers={"authorization": f"Bearer {TOKEN}"})).status_code == 200
        assert (await gateway.admin.get("/livez")).status_code == 200
        assert (await gateway.admin.post("/admin/reload")).status_code == 401


async def test_metrics_are_on_the_public_port_without_an_admin_port(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(DOCUMENT.format(url=upstream.url), "utf-8")
    async with (
        serve(create_app(Settings(document=path))) as port,
        httpx.AsyncClient(base_url=f"http://{LOOPBACK}:{port}", timeout=60) as client,
    ):
        assert (await client.get("/metrics")).status_code == 200
        assert (await client.get("/admin/timings")).status_code == 404


async def test_metrics_can_be_disabled(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    async with Running(tmp_path, upstream, metrics=False) as gateway:
        assert (await gateway.public.get("/things/7")).status_code == 200
        assert (await gateway.admin.get("/metrics")).status_code == 404
        assert (await gateway.admin.get("/admin/timings")).status_code == 200


async def test_open_breaker_of_a_readiness_upstream_makes_the_gateway_not_ready(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    async with Running(tmp_path, upstream, ready_upstreams=("b", "c")) as gateway:
        assert (await gateway.public.get("/readyz")).status_code == 200
        for _ in range(2):
            await gateway.public.get("/b")
        answer = await gateway.public.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["reasons"] == ["the upstream b is unavailable: its breaker is open"]
        assert 'anabranch_breaker_state{address="",upstream="b"} 2.0' in (await gateway.admin.get("/metrics")).text


@pytest.mark.parametrize(("name", "message"), [("d", "the document has no upstream d"), ("a", "the upstream a has no breaker")])
async def test_readiness_upstream_must_exist_and_have_a_breaker(
    tmp_path: Path, upstream: ScriptedUpstream, name: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Running(tmp_path, upstream, ready_upstreams=(name,))


async def test_admin_port_in_use_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(DOCUMENT.format(url="http://127.0.0.1:9"), "utf-8")
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        app = create_app(Settings(document=path, admin_port=taken.getsockname()[1]))
        with pytest.raises(StartError, match=r"the admin server cannot listen on 127\.0\.0\.1 port"):
            async with app.router.lifespan_context(app):
                raise AssertionError("it has begun")


def test_admin_paths_are_reserved_on_no_port(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(DOCUMENT.format(url="http://127.0.0.1:9").replace("/things/", "/admin/"), "utf-8")
    assert problems_of(path) == []
