"""Rules around an application: every request, WebSockets too, and what the log says of them."""

import logging
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from anabranch.config.model import Document
from anabranch.config.problems import Problems
from anabranch.core.forwarding import TrustedProxies
from anabranch.edge.rules import Ruled
from anabranch.guard.rules import Rules
from anabranch.guard.tally import Tally
from anabranch.plan.compile import compile_document

ENDPOINT = {"path": "/x", "steps": {"a": {"upstream": "a", "path": "/"}}}


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "reached"})


async def sent_by(ruled: Ruled, *lines: tuple[bytes, bytes], kind: str = "http", **scope: Any) -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    whole = {
        "type": kind,
        "path": "/any",
        "query_string": b"",
        "headers": list(lines),
        "client": ("192.0.2.1", 1),
        "method": "GET",
        **scope,
    }
    await ruled({key: value for key, value in whole.items() if key != "method" or kind == "http"}, receive, send)
    return sent


def ruled_by(tally: Tally | None = None, **written: Any) -> Ruled:
    problems = Problems()
    document = Document.model_validate({"version": 1, "upstreams": {"a": {"url": "http://a"}}, "endpoints": [ENDPOINT], **written})
    plan = compile_document(document, problems).rules
    problems.raise_if_any()
    assert plan is not None
    return Ruled(application, Rules(plan, TrustedProxies(), tally or Tally()), None)


async def test_websocket_is_refused_before_it_is_accepted() -> None:
    ruled = ruled_by(rules=[{"deny": '{header.x} == "1"'}])
    assert await sent_by(ruled, (b"x", b"1"), kind="websocket") == [{"type": "websocket.close", "code": 1008}]
    assert await sent_by(ruled, kind="websocket") == [{"type": "reached"}]
    assert await sent_by(ruled, kind="lifespan") == [{"type": "reached"}]


async def test_addresses_hold_for_everything() -> None:
    ruled = ruled_by(allow_from=["192.0.2.0/24"], deny_from=["192.0.2.7"])
    assert await sent_by(ruled) == [{"type": "reached"}]
    for client in (("192.0.2.7", 1), ("198.51.100.1", 1), None):
        start, _ = await sent_by(ruled, client=client)
        assert start["status"] == 403


async def test_rule_sees_absent_and_odd_values_as_text() -> None:
    ruled = ruled_by(rules=[{"deny": '{query.q} == "x y" || {header.a} + {query.b} == "\\ufffd" || {request.path} == "/a%2Fb"'}])
    assert await sent_by(ruled) == [{"type": "reached"}]
    assert (await sent_by(ruled, query_string=b"q=x+y&q=z"))[0]["status"] == 403
    assert (await sent_by(ruled, query_string=b"q=%ff"))[0]["type"] == "reached"
    assert (await sent_by(ruled, (b"a", b"\xff")))[0]["status"] == 403
    assert (await sent_by(ruled, path="/a/b", raw_path=b"/a%2Fb"))[0]["status"] == 403


async def test_rule_is_not_evaded_by_repeating_a_query_parameter() -> None:
    """What serves the request may read any of the values: HTTP parameter pollution."""
    ruled = ruled_by(rules=[{"deny": '{query.debug} == "1"'}, {"deny": '{query.a} == "x" && {query.b} == "y"'}])
    for query in (b"debug=0&debug=1", b"debug=1&debug=0", b"debug&debug=%31", b"a=1&b=y&a=x&b=2"):
        assert (await sent_by(ruled, query_string=query))[0]["status"] == 403, query
    for query in (b"debug=0&debug=2", b"a=x&a=1&b=1", b""):
        assert await sent_by(ruled, query_string=query) == [{"type": "reached"}], query


async def test_rule_refuses_what_has_too_many_values_to_look_at() -> None:
    ruled = ruled_by(rules=[{"deny": '{query.a} == "x" && {query.b} == "y"'}])
    assert await sent_by(ruled, query_string=b"&".join([b"a=1"] * 30 + [b"b=1"] * 30)) == [{"type": "reached"}]
    assert (await sent_by(ruled, query_string=b"&".join([b"a=1"] * 40 + [b"b=1"] * 40)))[0]["status"] == 403


async def test_rule_that_cannot_be_evaluated_refuses_and_the_log_has_one_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """agentgateway #3523: a limit or a rule that cannot be evaluated must not open the door."""
    now = [0.0]
    tally = Tally(lambda: now[0])
    ruled = ruled_by(tally, rules=[{"deny": "int({header.n}) > 3"}])
    caplog.set_level(logging.WARNING, "anabranch.guard")
    for value in (b"secret", b"", b"1e", b"secret"):
        assert (await sent_by(ruled, (b"n", value)))[0]["status"] == 403
    assert (await sent_by(ruled, (b"n", b"2")))[0]["type"] == "reached"
    assert len(caplog.messages) == 1
    now[0] = 61
    await sent_by(ruled, (b"n", b"secret"))
    assert len(caplog.messages) == 2
    assert "secret" not in caplog.text
    assert [(sample.labels, sample.value) for sample in tally.samples()] == [(("0",), 5)]


async def test_no_expression_makes_a_rule_slow() -> None:
    """Expressions that take exponential time in engines that go back."""
    ruled = ruled_by(rules=[{"deny": '{header.x} matches "^(a+)+$"'}, {"deny": '{header.x} matches "(x+x+)+y"'}])
    assert await sent_by(ruled, (b"x", b"a" * 30_000 + b"!")) == [{"type": "reached"}]
    assert await sent_by(ruled, (b"x", b"x" * 30_000)) == [{"type": "reached"}]
