from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import orjson
import pytest
from fastapi import APIRouter, Depends, HTTPException
from fastapi.openapi.models import OpenAPI
from pydantic import BaseModel
from starlette.responses import StreamingResponse
from starlette.types import Message

from anabranch.document.service import Service
from anabranch.edge.app import Gateway, build_app
from anabranch.edge.dataplane import DataPlane
from anabranch.edge.python import Fan
from anabranch.engine.outcome import Result
from anabranch.errors import InvalidBody, QueueFull
from anabranch.server.health import Health
from anabranch.server.health import routes as health_routes
from tests.support.asgi import ask
from tests.support.edge_plans import document, endpoint, outcome, parameter, result


class Booking(BaseModel):
    seats: int


class Problem(BaseModel):
    """A user's own model that happens to have the name of ours."""

    why: str


def user_router() -> APIRouter:
    router = APIRouter(prefix="/python")

    @router.get("/hello")
    async def hello() -> dict[str, str]:
        return {"hello": "world"}

    @router.post("/bookings")
    async def book(booking: Booking) -> Booking:
        return booking

    @router.get("/forbidden")
    async def forbidden() -> None:
        raise HTTPException(403, "not yours", {"x-why": "because"})

    @router.get("/structured")
    async def structured() -> None:
        raise HTTPException(409, [{"code": "taken"}, "again"])

    @router.get("/odd")
    async def odd() -> None:
        raise HTTPException(499, "gone")

    @router.get("/unchanged")
    async def unchanged() -> None:
        raise HTTPException(304, headers={"etag": '"1"'})

    @router.get("/busy")
    async def busy() -> None:
        raise QueueFull("too many", retry_after_s=3)

    @router.get("/ours")
    async def ours() -> None:
        raise InvalidBody("no good")

    @router.get("/half")
    async def half() -> StreamingResponse:
        async def content() -> AsyncIterator[bytes]:
            yield b"half"
            raise RuntimeError("secret of 10.0.0.7")

        return StreamingResponse(content())

    @router.get("/broken")
    async def broken() -> None:
        raise RuntimeError("secret of 10.0.0.7")

    return router


async def run(*_: object) -> Result:
    return result(outcome("flight"))


def gateway(*routers: APIRouter, is_docs_enabled: bool = True, is_loaded: bool = True) -> Gateway:
    plane = DataPlane(lambda _: run)
    if is_loaded:
        flight = endpoint("/flights/{id}", name="flight", parameters=(parameter("id", "path"),))
        plane.load(document(flight, title="Flights", api_version="2.1.0", description="All of them."))
    health = Health()
    app = build_app(plane=plane, routes=health_routes(health), routers=routers or (user_router(),), is_docs_enabled=is_docs_enabled)
    app.add_parts(health)
    return app


async def test_data_plane_python_routes_and_control_plane_coexist() -> None:
    app = gateway()
    assert (await ask(app, "GET", "/flights/1")).headers["gateway-complete"] == "?1"
    assert orjson.loads((await ask(app, "GET", "/python/hello")).body) == {"hello": "world"}
    for path in ("/livez", "/readyz", "/docs", "/redoc", "/openapi.json", "/problems", "/problems/timeout", "/docs/static/swagger-ui.css"):
        assert (await ask(app, "GET", path)).status == 200, path


async def test_docs_can_be_disabled() -> None:
    app = gateway(is_docs_enabled=False)
    for path in ("/docs", "/redoc", "/openapi.json", "/docs/static/swagger-ui.css"):
        assert (await ask(app, "GET", path)).status == 404, path
    assert (await ask(app, "GET", "/problems/timeout")).status == 200


async def test_unknown_path_is_a_problem() -> None:
    client = await ask(gateway(), "GET", "/nothing", headers={"x-request-id": "r-1"})
    assert (client.status, client.headers["content-type"]) == (404, "application/problem+json")
    assert orjson.loads(client.body) == {
        "type": "/problems/not_found",
        "title": "No such endpoint",
        "status": 404,
        "detail": "no endpoint has this path",
        "instance": "r-1",
    }
    assert client.headers["x-request-id"] == "r-1"


async def test_trailing_slash_is_not_redirected() -> None:
    for path in ("/flights/1/", "/python/hello/", "/livez/"):
        assert (await ask(gateway(), "GET", path)).status == 404, path


@pytest.mark.parametrize("path", ["/python/hello", "/livez", "/problems/timeout"])
async def test_wrong_method_is_a_problem_with_allow(path: str) -> None:
    client = await ask(gateway(), "DELETE", path)
    assert client.status == 405
    assert "GET" in client.headers["allow"]
    assert orjson.loads(client.body)["type"] == "/problems/method_not_allowed"


async def test_validation_error_of_a_python_route_is_a_problem_without_the_value() -> None:
    headers = {"content-type": "application/json"}
    client = await ask(gateway(), "POST", "/python/bookings", headers=headers, body=b'{"seats": "secret"}')
    assert (client.status, client.headers["content-type"]) == (422, "application/problem+json")
    (fault,) = orjson.loads(client.body)["errors"]
    assert (fault["in"], fault["name"]) == ("body", "seats")
    assert b"secret" not in client.body


async def test_status_and_header_fields_of_a_python_route_are_kept() -> None:
    client = await ask(gateway(), "GET", "/python/forbidden")
    assert (client.status, client.headers["x-why"]) == (403, "because")
    document_ = orjson.loads(client.body)
    assert (document_["type"], document_["title"], document_["detail"]) == ("about:blank", "Forbidden", "not yours")
    structured = orjson.loads((await ask(gateway(), "GET", "/python/structured")).body)
    assert structured["errors"] == [{"code": "taken"}, {"detail": "again"}]
    assert orjson.loads((await ask(gateway(), "GET", "/python/odd")).body)["title"] == "Error"
    unchanged = await ask(gateway(), "GET", "/python/unchanged")
    assert (unchanged.status, unchanged.body, unchanged.headers["etag"]) == (304, b"", '"1"')


async def test_our_own_errors_are_problems_from_python_routes_too() -> None:
    client = await ask(gateway(), "GET", "/python/busy")
    assert (client.status, client.headers["retry-after"]) == (503, "3")
    assert orjson.loads(client.body)["type"] == "/problems/queue_full"
    assert orjson.loads((await ask(gateway(), "GET", "/python/ours")).body)["type"] == "/problems/invalid_body"


@pytest.mark.parametrize("headers", [{}, {"x-request-id": "r-1"}])
async def test_unexpected_failure_of_a_python_route_is_only_logged(headers: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    client = await ask(gateway(), "GET", "/python/broken", headers=headers)
    assert (client.status, client.headers["content-type"]) == (500, "application/problem+json")
    assert b"secret" not in client.body
    problem = orjson.loads(client.body)
    assert (problem["type"], problem["instance"]) == ("/problems/internal_error", client.headers["x-request-id"])
    (record,) = caplog.records
    assert record.getMessage() == f"the route GET /python/broken failed unexpectedly, request {problem['instance']}"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "secret of 10.0.0.7"
    assert headers.get("x-request-id", problem["instance"]) == problem["instance"]


async def test_response_that_fails_midway_does_not_look_complete(caplog: pytest.LogCaptureFixture) -> None:
    client = await ask(gateway(), "GET", "/python/half", headers={"x-request-id": "r-1"})
    assert (client.status, client.body) == (200, b"half")
    assert client.sent[-1]["more_body"] is True
    assert [record.getMessage() for record in caplog.records] == ["the route GET /python/half failed unexpectedly, request r-1"]


async def test_description_has_the_document_and_the_python_routes() -> None:
    app = gateway()
    client = await ask(app, "GET", "/openapi.json")
    described = orjson.loads(client.body)
    assert described["openapi"].startswith("3.1.")
    assert described["info"] == {"title": "Flights", "version": "2.1.0", "description": "All of them."}
    assert set(described["paths"]) >= {"/flights/{id}", "/python/hello", "/python/bookings"}
    assert not {"/docs", "/livez", "/problems"} & set(described["paths"])
    OpenAPI.model_validate(described)
    again = await ask(app, "GET", "/openapi.json", headers={"if-none-match": client.headers["etag"]})
    assert again.status == 304


async def test_validation_errors_of_python_routes_are_described_as_problems() -> None:
    described = gateway().openapi()
    content = described["paths"]["/python/bookings"]["post"]["responses"]["422"]["content"]
    assert content == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    assert "HTTPValidationError" not in described["components"]["schemas"]


async def test_python_routes_are_described_with_the_problems_that_they_can_return() -> None:
    router = APIRouter()

    def nested(fan: Fan) -> object:
        return fan

    @router.get("/fan", responses={503: {"description": "my own words"}})
    async def with_fan(fan: Fan) -> None: ...

    @router.get("/nested")
    async def with_nested(inner: Annotated[object, Depends(nested)]) -> None: ...

    @router.get("/plain")
    async def plain() -> None: ...

    outer = APIRouter(prefix="/outer")
    outer.include_router(router)
    app = gateway(router, outer)
    described = app.openapi()
    OpenAPI.model_validate(described)

    def failures(path: str) -> dict[str, str]:
        responses = described["paths"][path]["get"]["responses"]
        return {
            status: one.get("$ref", "").rpartition("/")[2] or one["description"] for status, one in responses.items() if status != "200"
        }

    of_fan_out = {
        "4XX": "UpstreamRefusal", "500": "InternalError", "502": "BadGateway", "503": "ServiceUnavailable", "504": "GatewayTimeout",
    }  # fmt: skip
    for prefix in ("", "/outer"):
        assert failures(f"{prefix}/fan") == {**of_fan_out, "503": "my own words"}
        assert failures(f"{prefix}/nested") == of_fan_out
        assert failures(f"{prefix}/plain") == {"500": "InternalError"}
    assert set(described["components"]["responses"]) >= set(of_fan_out.values())


CORS = {"allow_origins": ["https://app.example"]}
ORIGIN = {"origin": "https://app.example"}
PREFLIGHT = {**ORIGIN, "access-control-request-method": "POST"}


async def test_cors_applies_to_python_routes() -> None:
    app = gateway()
    answer = await ask(app, "GET", "/python/hello", headers=ORIGIN)
    assert "access-control-allow-origin" not in answer.headers
    assert (await ask(app, "OPTIONS", "/python/bookings", headers=PREFLIGHT)).status == 405
    app.load(Service(document(endpoint("/flights"), cors=CORS)))
    for path, status in (
        ("/python/hello", 200),
        ("/python/forbidden", 403),
        ("/python/broken", 500),
        ("/python/bookings", 405),
        ("/nowhere", 404),
    ):
        answer = await ask(app, "GET", path, headers=ORIGIN)
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (status, "https://app.example"), path
        assert "x-request-id" in answer.headers["access-control-expose-headers"]
        answer = await ask(app, "GET", path, headers={"origin": "https://evil.example"})
        assert (answer.status, "access-control-allow-origin" in answer.headers) == (status, False), path
    answer = await ask(app, "OPTIONS", "/python/bookings", headers=PREFLIGHT)
    assert (answer.status, answer.headers["access-control-max-age"]) == (200, "600")
    assert (await ask(app, "OPTIONS", "/python/bookings", headers={**PREFLIGHT, "origin": "https://evil.example"})).status == 400
    app.load(Service(document(endpoint("/flights"))))
    assert "access-control-allow-origin" not in (await ask(app, "GET", "/python/hello", headers=ORIGIN)).headers


async def test_cors_does_not_apply_to_the_gateways_own_pages() -> None:
    router = APIRouter()

    @router.get("/{path:path}")
    async def everything(path: str) -> str:
        return path

    app = gateway(router)
    app.load(Service(document(endpoint("/flights"), cors=CORS)))
    for path in ("/livez", "/docs", "/problems"):
        assert "access-control-allow-origin" not in (await ask(app, "GET", path, headers=ORIGIN)).headers, path
    assert "access-control-allow-origin" in (await ask(app, "GET", "/anything/else", headers=ORIGIN)).headers


async def test_name_of_a_users_model_is_kept_when_ours_has_the_same() -> None:
    router = APIRouter()

    @router.get("/mine")
    async def mine() -> Problem:
        return Problem(why="x")

    schemas = gateway(router).openapi()["components"]["schemas"]
    assert "why" in schemas["Problem"]["properties"]
    assert "instance" in schemas["GatewayProblem"]["properties"]


async def test_description_follows_a_reload_and_is_built_once() -> None:
    app = gateway()
    first = app.openapi_json()
    assert app.openapi_json() is first
    app.plane.load(document(endpoint("/new"), title="New"))
    assert "/new" in app.openapi()["paths"]
    assert app.openapi()["info"]["title"] == "New"


async def test_gateway_without_a_document_describes_only_python() -> None:
    described = gateway(is_loaded=False).openapi()
    assert set(described["paths"]) >= {"/python/hello"}
    OpenAPI.model_validate(described)


async def test_lifespan_runs() -> None:
    seen: list[str] = []

    @asynccontextmanager
    async def part() -> AsyncIterator[None]:
        seen.append("up")
        yield
        seen.append("down")

    messages: list[Message] = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        seen.append(message["type"])

    app = build_app(plane=DataPlane(lambda _: run))
    app.add_parts(part(), None)
    await app({"type": "lifespan", "state": {}}, receive, send)
    assert seen == ["up", "lifespan.startup.complete", "down", "lifespan.shutdown.complete"]
