import asyncio
import logging
from typing import Any

import orjson
import pytest
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from anabranch.edge.dataplane import DataPlane
from anabranch.engine.outcome import Result
from anabranch.engine.request import ClientRequest
from anabranch.plan.model import DocumentPlan
from tests.support.asgi import Client, ask, http_scope
from tests.support.edge_plans import body, document, endpoint, outcome, parameter, read_integer, result

FLIGHT = endpoint("/flights/{id}", parameters=(parameter("id", "path", slot=0, read=read_integer),))
UPDATE = endpoint("/flights/{id}", "PUT", parameters=(parameter("id", "path", slot=0, read=read_integer),), body=body(slot=1), body_slot=1)


class Engine:
    """Answers at once and records its calls."""

    def __init__(self, made: Result | None = None) -> None:
        self.made = made or result(outcome("flight"))
        self.asked: list[ClientRequest] = []

    async def __call__(self, request: ClientRequest) -> Result:
        self.asked.append(request)
        return self.made


class App:
    """The data plane as a separate application."""

    def __init__(self, engine: Any, served: DocumentPlan, *, allow_explain: bool = False) -> None:
        self.plane = DataPlane(lambda _: engine, allow_explain=allow_explain)
        self.plane.load(served)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match, child = self.plane.matches(scope)
        assert match is Match.FULL
        scope.update(child)
        await self.plane.handle(scope, receive, send)


async def test_request_runs_its_plan_with_typed_values_and_a_deadline() -> None:
    engine = Engine()
    client = await ask(App(engine, document(FLIGHT)), "GET", "/flights/12", headers={"x-request-id": "r-1", "accept": "*/*"})
    assert client.status == 200
    assert client.headers["x-request-id"] == "r-1"
    (request,) = engine.asked
    assert request.plan is FLIGHT
    assert request.frame == [12]
    assert request.headers == {b"x-request-id": b"r-1", b"accept": b"*/*"}
    assert request.propagated == ((b"x-request-id", b"r-1"),)
    assert (request.id, request.method, request.path) == (b"r-1", "GET", b"/flights/12")
    assert not request.wants_notes


async def test_deadline_counts_from_the_arrival_of_the_request() -> None:
    engine = Engine()
    app = App(engine, document(endpoint(timeout_s=1.5)))

    now = asyncio.get_running_loop().time()
    await ask(app, "GET", "/briefing")
    assert 1.5 <= engine.asked[0].deadline - now < 6.5


async def test_invalid_parameters_touch_no_upstream() -> None:
    engine = Engine()
    client = await ask(App(engine, document(FLIGHT)), "GET", "/flights/abc", headers={"x-request-id": "r-2"})
    assert client.status == 400
    assert orjson.loads(client.body)["instance"] == client.headers["x-request-id"] == "r-2"
    assert engine.asked == []


async def test_body_reaches_the_frame() -> None:
    engine = Engine()
    client = await ask(App(engine, document(FLIGHT, UPDATE)), "PUT", "/flights/1", body=b'{"gate": 4}')
    assert client.status == 200
    (request,) = engine.asked
    assert (request.plan, request.frame, request.body) == (UPDATE, [1, b'{"gate": 4}'], b'{"gate": 4}')


async def test_invalid_body_is_a_problem() -> None:
    client = await ask(App(Engine(), document(UPDATE)), "PUT", "/flights/1", body=b"{")
    assert (client.status, client.headers["content-type"]) == (400, "application/problem+json")


async def test_endpoint_without_a_body_never_reads_one() -> None:
    client = await ask(App(Engine(), document(FLIGHT)), "GET", "/flights/1", body=b"not json")
    assert (client.status, client.received) == (200, 0)


async def test_client_that_disconnects_while_sending_gets_no_response() -> None:
    client = Client(b"{", b"")
    client.leave()
    app = App(Engine(), document(UPDATE))
    client._messages.pop()
    await app(http_scope("PUT", "/flights/1"), client.receive, client.send)
    assert client.sent == []


async def test_head_is_get_without_a_body() -> None:
    engine = Engine()
    client = await ask(App(engine, document(FLIGHT)), "HEAD", "/flights/1")
    assert (client.status, client.body, client.headers["content-length"]) == (200, b"", "13")
    assert engine.asked[0].plan is FLIGHT


async def test_head_of_a_problem_has_no_body_either() -> None:
    client = await ask(App(Engine(), document(FLIGHT)), "HEAD", "/flights/abc")
    assert (client.status, client.body) == (400, b"")
    assert int(client.headers["content-length"]) > 0


async def test_wrong_method_is_answered_with_the_allowed_ones() -> None:
    client = await ask(App(Engine(), document(FLIGHT, UPDATE)), "DELETE", "/flights/1", headers={"x-request-id": "r"})
    assert (client.status, client.headers["allow"]) == (405, "GET, HEAD, OPTIONS, PUT")
    assert orjson.loads(client.body)["type"] == "/problems/method_not_allowed"
    assert client.headers["x-request-id"] == "r"


async def test_options_lists_the_allowed_methods() -> None:
    client = await ask(App(Engine(), document(UPDATE)), "OPTIONS", "/flights/1")
    assert (client.status, client.headers["allow"], client.body) == (204, "OPTIONS, PUT", b"")


def test_unknown_paths_and_websockets_do_not_match() -> None:
    plane = App(Engine(), document(FLIGHT)).plane
    assert plane.matches(http_scope("GET", "/nothing"))[0] is Match.NONE
    assert plane.matches({"type": "websocket", "path": "/flights/1"})[0] is Match.NONE


def test_reserved_paths_never_match_an_endpoint() -> None:
    plane = App(Engine(), document(endpoint("/{a}", parameters=(parameter("a", "path"),)))).plane
    assert plane.matches(http_scope("GET", "/livez"))[0] is Match.NONE
    assert plane.matches(http_scope("GET", "/alive"))[0] is Match.FULL


def test_root_path_is_removed() -> None:
    plane = App(Engine(), document(FLIGHT)).plane
    assert plane.matches(http_scope("GET", "/flights/1", root_path="/api"))[0] is Match.FULL


def test_server_without_a_raw_path_is_served_by_the_decoded_one() -> None:
    plane = App(Engine(), document(FLIGHT)).plane
    scope = http_scope("GET", "/flights/1")
    del scope["raw_path"]
    scope["path"] = "/flights/100%25ä"
    assert plane.matches(scope)[1]["anabranch.found"][2] == ("100%25ä",)


async def test_unexpected_failure_is_a_problem_without_details_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def run(*_: object) -> Result:
        raise RuntimeError("secret of 10.0.0.7")

    with caplog.at_level(logging.ERROR, "anabranch.edge"):
        client = await ask(App(run, document(FLIGHT)), "GET", "/flights/1", headers={"x-request-id": "r-9"})
    assert client.status == 500
    assert b"secret" not in client.body
    assert orjson.loads(client.body)["instance"] == "r-9"
    (record,) = caplog.records
    assert "r-9" in record.getMessage()
    assert record.exc_info is not None


async def test_explain_shows_the_plan_only_when_allowed() -> None:
    engine = Engine()
    client = await ask(App(engine, document(FLIGHT), allow_explain=True), "GET", "/flights/1?_explain=true")
    shown = orjson.loads(client.body)
    assert client.status == 200
    assert [step["step"] for step in shown["steps"]] == ["flight"]
    assert client.headers["cache-control"] == "no-store"
    assert engine.asked[0].wants_notes
    client = await ask(App(engine, document(FLIGHT)), "GET", "/flights/1?_explain=true")
    assert orjson.loads(client.body) == {"flight": {}}
    assert not engine.asked[1].wants_notes


async def test_next_request_after_a_reload_uses_the_new_document() -> None:
    app = App(Engine(), document(endpoint("/old")))
    began = http_scope("GET", "/old")
    began.update(app.plane.matches(began)[1])
    fresh = document(endpoint("/new"))
    app.plane.load(fresh)
    assert app.plane.document is fresh
    assert app.plane.matches(http_scope("GET", "/old"))[0] is Match.NONE
    assert app.plane.matches(http_scope("GET", "/new"))[0] is Match.FULL
    client = Client()
    await app.plane.handle(began, client.receive, client.send)
    assert client.status == 200


def test_plane_is_empty_before_the_first_load() -> None:
    plane = DataPlane(lambda _: Engine())
    assert plane.document is None
    assert plane.matches(http_scope("GET", "/"))[0] is Match.NONE
