"""Builds an application from a document: what is imported, opened and rejected before anything listens."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from anabranch.document.compile import compile_file
from anabranch.errors import ConfigError, Problem
from anabranch.main import assemble, create_app
from anabranch.settings import Settings
from tests.support.asgi import ask
from tests.support.gateway import running_gateway
from tests.support.scripted import ScriptedUpstream

DOCUMENT = """\
version: 1
upstreams: {{a: {{url: "{url}"}}}}
endpoints: [{{path: /a, steps: {{s: {{upstream: a, path: /}}}}}}]
"""
ROUTES = """\
from fastapi import APIRouter
router = APIRouter()
@router.get("/from-python")
async def route() -> int:
    return 7
@router.get("/a")
async def never() -> str:
    return "the document's endpoints come first"
"""


@pytest.fixture(autouse=True)
def _unchanged_imports() -> Iterator[None]:
    """Removes the modules that a test's document has imported, so that the next test does not see them."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("routes_of_"):
            del sys.modules[name]


def written(folder: Path, *routers: str) -> Path:
    path = folder / "gateway.yaml"
    path.write_text(DOCUMENT.format(url="http://127.0.0.1:9") + f"routers: {list(routers)}\n".replace("'", '"'), "utf-8")
    return path


def problems_of(folder: Path, *routers: str) -> list[Problem]:
    with pytest.raises(ConfigError) as refused:
        compile_file(written(folder, *routers), {})
    return refused.value.problems


@pytest.mark.parametrize(
    ("module", "name", "message"),
    [
        (None, "routes_of_nobody:router", "there is no module routes_of_nobody"),
        (None, "routes_of_nobody", "a router is written as module:attribute"),
        (None, ":router", "a router is written as module:attribute"),
        ("x = 1", "{module}:router", "the module {module} has no router"),
        ("router = 1", "{module}:router", "{module}:router must be a fastapi.APIRouter, not of type int"),
        ("import nothing_of_this_name", "{module}:router", "there is no module nothing_of_this_name"),
        ("None.nothing", "{module}:router", "the module {module} cannot be imported: AttributeError"),
        ("1/0", "{module}:router", "the module {module} cannot be imported: ZeroDivisionError: division by zero"),
        ("def f(:", "{module}:router", "the module {module} cannot be imported: SyntaxError"),
        ("import sys; sys.exit(1)", "{module}:router", "the module {module} cannot be imported: SystemExit"),
    ],
)
def test_router_that_cannot_be_imported_is_a_located_problem(tmp_path: Path, module: str | None, name: str, message: str) -> None:
    chosen = f"routes_of_{tmp_path.name}"
    if module is not None:
        (tmp_path / f"{chosen}.py").write_text(module, "utf-8")
    (problem,) = problems_of(tmp_path, name.format(module=chosen))
    assert (problem.line, problem.path) == (4, "routers[0]")
    assert problem.message.startswith(message.format(module=chosen))


def test_every_router_that_cannot_be_imported_is_reported(tmp_path: Path) -> None:
    assert [problem.path for problem in problems_of(tmp_path, "routes_of_a:x", "routes_of_b:x")] == ["routers[0]", "routers[1]"]


async def test_python_routes_work_beside_the_documents_endpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "routes_of_mine.py").write_text(ROUTES, "utf-8")
    async with ScriptedUpstream({"*": {"json": 1}}) as upstream:
        document = DOCUMENT.format(url=upstream.url) + 'routers: ["routes_of_mine:router"]\n'
        async with running_gateway(document, tmp_path) as gateway, gateway.client() as client:
            assert (await client.get("/from-python")).json() == 7
            assert (await client.get("/a")).json() == {"s": 1}


async def test_document_without_routers_needs_no_fan_out(tmp_path: Path) -> None:
    app = create_app(Settings(document=written(tmp_path)))
    assert "FanHeaders" not in repr(app.user_middleware)


async def test_readiness_follows_the_life_of_the_application(tmp_path: Path) -> None:
    process = assemble(Settings(document=written(tmp_path)))
    app, health = process.app, process.health
    assert list(health.reasons) == ["the gateway is starting"]
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        assert (await client.get("/readyz")).status_code == 200
        health.stop()
        stopping = await client.get("/readyz")
        assert (stopping.status_code, stopping.json()["reasons"]) == (503, ["the gateway is stopping"])
        assert (await client.get("/livez")).status_code == 200
    assert list(health.reasons) == ["the gateway is stopping"]


async def test_application_opens_nothing_before_its_lifespan(tmp_path: Path) -> None:
    async with ScriptedUpstream({"*": {"json": 1}}) as upstream:
        (tmp_path / "gateway.yaml").write_text(DOCUMENT.format(url=upstream.url), "utf-8")
        app = create_app(Settings(document=tmp_path / "gateway.yaml"))
        async with app.router.lifespan_context(app):
            assert (await ask(app, "GET", "/a")).status == 200
            assert upstream.accepted == 1
        await upstream.until(lambda one: one.open == 0)


def test_warnings_are_logged_when_the_application_is_created(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(DOCUMENT.format(url="http://127.0.0.1:9").replace('9"}', '9", timeout: 1m}'), "utf-8")
    with caplog.at_level(logging.WARNING):
        create_app(Settings(document=path))
    assert [f"{path}:3:" in record.getMessage() for record in caplog.records] == [True]


def test_settings_without_a_document_are_rejected() -> None:
    with pytest.raises(ConfigError, match="no gateway document is given"):
        create_app(Settings(document=None, _env_file=None))
