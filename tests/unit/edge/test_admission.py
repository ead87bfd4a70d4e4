"""Requests beyond the limit wait and are then rejected; the gateway's own pages never are."""

import asyncio
from typing import Any

import orjson
import pytest
from starlette.types import Message, Receive, Scope, Send

from anabranch.edge.admission import Admission
from anabranch.guard.concurrency import Gate
from tests.support.asgi import ask


class Slow:
    """An application whose requests end when they are released. `inside`: running requests."""

    def __init__(self) -> None:
        self.inside = 0
        self.let_go = asyncio.Event()

    def cross_origin_fields(self, origin: bytes | None) -> list[tuple[bytes, bytes]]:
        return [] if origin is None else [(b"access-control-allow-origin", origin)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.inside += 1
        try:
            if not scope["path"].startswith("/livez"):
                await self.let_go.wait()
        finally:
            self.inside -= 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def kept(*, limit: int = 1, waiting: int = 0, wait_s: float = 30.0) -> tuple[Slow, Gate, Any]:
    app, gate = Slow(), Gate(limit=limit, waiting=waiting, wait_s=wait_s)
    return app, gate, Admission(app, gate=gate, rejections=app)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_request_beyond_limit_and_queue_is_rejected_at_once() -> None:
    app, gate, keeper = kept()
    first = asyncio.ensure_future(ask(keeper, "GET", "/a"))
    await turns()
    refused = await ask(keeper, "GET", "/a", headers={"x-request-id": "mine"})
    assert refused.status == 503
    assert refused.headers["retry-after"] == "1"
    shown = orjson.loads(refused.body)
    assert (shown["type"], shown["status"], shown["instance"]) == ("/problems/overloaded", 503, "mine")
    assert (app.inside, gate.shed) == (1, 1)
    app.let_go.set()
    assert (await first).status == 200
    assert gate.bulkhead.in_use == 0


async def test_waiting_request_gets_the_freed_slot() -> None:
    app, gate, keeper = kept(waiting=1)
    both = [asyncio.ensure_future(ask(keeper, "GET", "/a")) for _ in range(2)]
    await turns()
    assert (app.inside, gate.bulkhead.queued) == (1, 1)
    app.let_go.set()
    assert [(await one).status for one in both] == [200, 200]
    assert (gate.admitted, gate.shed, gate.bulkhead.in_use) == (1, 0, 0)


async def test_wait_ends_with_a_rejection() -> None:
    app, _, keeper = kept(waiting=1, wait_s=0.01)
    first = asyncio.ensure_future(ask(keeper, "GET", "/a"))
    await turns()
    assert (await ask(keeper, "GET", "/a")).status == 503
    app.let_go.set()
    await first


async def test_own_pages_are_served_at_the_limit() -> None:
    app, gate, keeper = kept()
    first = asyncio.ensure_future(ask(keeper, "GET", "/a"))
    await turns()
    assert (await ask(keeper, "GET", "/livez")).status == 200
    assert gate.shed == 0
    app.let_go.set()
    await first


async def test_cancelled_requests_release_their_slot() -> None:
    app, gate, keeper = kept(waiting=1)
    both = [asyncio.ensure_future(ask(keeper, "GET", "/a")) for _ in range(2)]
    await turns()
    for one in both:
        one.cancel()
    await asyncio.wait(both)
    assert (gate.bulkhead.in_use, gate.bulkhead.queued, app.inside) == (0, 0, 0)


async def test_answer_to_head_has_no_body() -> None:
    app, _, keeper = kept()
    first = asyncio.ensure_future(ask(keeper, "GET", "/a"))
    await turns()
    assert (await ask(keeper, "HEAD", "/a")).body == b""
    app.let_go.set()
    await first


async def test_rejection_has_a_request_id_and_cors_fields() -> None:
    app, _, keeper = kept()
    first = asyncio.ensure_future(ask(keeper, "GET", "/a"))
    await turns()
    rejected = await ask(keeper, "GET", "/a", headers={"origin": "https://app.example"})
    assert rejected.headers["access-control-allow-origin"] == "https://app.example"
    assert rejected.headers["x-request-id"] == orjson.loads(rejected.body)["instance"]
    app.let_go.set()
    await first


@pytest.mark.parametrize("is_first", [True, False])
async def test_websocket_takes_a_slot_like_a_request(*, is_first: bool) -> None:
    app, gate, keeper = kept()
    other = asyncio.ensure_future(ask(keeper, "GET", "/a"))
    await turns()
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    if is_first:
        app.let_go.set()
        await other
        app.let_go.clear()
    connection = asyncio.ensure_future(keeper({"type": "websocket", "path": "/a", "headers": []}, receive, send))
    await turns()
    if is_first:
        assert (app.inside, gate.bulkhead.in_use) == (1, 1)
        assert (await ask(keeper, "GET", "/b")).status == 503
    else:
        assert sent == [{"type": "websocket.close", "code": 1013}]
    app.let_go.set()
    await connection
    await other
    assert gate.bulkhead.in_use == 0
