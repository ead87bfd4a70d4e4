"""The spec runner itself, with a small ASGI application in place of the gateway: it must detect every kind of wrong expectation."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from anabranch.errors import Problem
from tests.support.behaviour import Behaviour
from tests.support.raw_client import FramingError, parse
from tests.support.serving import serve
from tests.support.spec_document import document_text, script
from tests.support.spec_model import Case, Expect, ExpectedProblem, Seen, Sent, SpecError, read_spec_file
from tests.support.specs import CaseFailed, check_problems, run_case

ID = [(b"x-request-id", b"r1")]


def _app(document: str, *, crash: bool = False, task: bool = False) -> Any:
    """Returns the answer of the upstream `a` to the same path."""
    url = json.loads(document)["upstreams"].get("a", {}).get("url", "")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": message["type"] + ".complete"})
                if message["type"].endswith("shutdown"):
                    return
        if crash:
            raise RuntimeError("boom")
        if task:
            app.kept = asyncio.create_task(asyncio.sleep(60))  # type: ignore[attr-defined]
        async with httpx.AsyncClient() as client:
            answer = await client.get(url + scope["path"])
        body = answer.content
        await send({"type": "http.response.start", "status": answer.status_code, "headers": [*ID, (b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})

    return app


async def _run(folder: Path, case: dict[str, Any], **fault: bool) -> None:
    @contextlib.asynccontextmanager
    async def start(document: str, folder: Path, settings: dict[str, Any]) -> AsyncIterator[int]:
        async with serve(_app(document, **fault)) as port:
            yield port

    await run_case(Case.model_validate({"name": "it", "endpoint": {}, **case}), folder, start)


def _case(**changes: Any) -> dict[str, Any]:
    expect = {"status": 200, "json": {"n": 1}, "headers": {"content-length": "8", "x-none": None}}
    request = {"send": "GET /x", "expect": expect}
    return {"upstreams": {"a": {"/x": {"json": {"n": 1}}}}, "requests": [request], "hits": {"a": 1}, **changes}


async def test_a_correct_case_passes(tmp_path: Path) -> None:
    await _run(tmp_path, _case(seen={"a": [{"method": "GET", "target": "/x"}]}, connections={"a": 1}, peak={"a": 1}, aborted={"a": 0}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"requests": [{"send": "GET /x", "expect": {"status": 201}}]}, "status: expected 201, got 200"),
        ({"requests": [{"send": "GET /x", "expect": {"status": 200, "json": {"n": 1.0}}}]}, "$.n: expected 1.0, got 1"),
        ({"requests": [{"send": "GET /x", "expect": {"status": 200, "body": "{}"}}]}, "body: expected b'{}', got b'{\"n\": 1}'"),
        (
            {"requests": [{"send": "GET /x", "expect": {"status": 200, "headers": {"etag": "1"}}}]},
            "header etag: expected 1, got none",
        ),
        ({"requests": [{"send": "GET /x", "expect": {"status": 200, "problem": {"n": 1}}}]}, "expected application/problem+json"),
        ({"requests": [{"send": "GET /x", "expect": {"status": 200, "not_before": "1s"}}]}, "expected it to take 1 s or more"),
        ({"requests": [{"send": "GET /x", "expect": {"status": 200, "body": {"excludes": "n"}}}]}, "body: expected it not to contain 'n'"),
        ({"hits": {}}, "upstream a: expected 0 hits, got 1"),
        ({"hits": {"a": {"/y": 1}}}, "upstream a: expected 0 hits on /x, got 1"),
        ({"seen": {"a": [{"target": "/y"}]}}, "request 1: expected target /y, got /x"),
        ({"seen": {"a": [{"headers": {"accept": None}}]}}, "header accept: expected none"),
        ({"connections": {"a": 2}}, "expected 2 connections, got 1"),
    ],
)
async def test_each_kind_of_difference_is_reported(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(CaseFailed) as failed:
        await _run(tmp_path, _case(**changes))
    assert said in str(failed.value)
    assert "case 'it'" in str(failed.value)
    assert "upstream a: 1 hits" in str(failed.value)


async def test_an_exception_behind_the_answer_is_reported(tmp_path: Path) -> None:
    with pytest.raises(CaseFailed, match="boom"):
        await _run(tmp_path, _case(hits={}), crash=True)


async def test_a_task_that_outlives_the_gateway_is_reported(tmp_path: Path) -> None:
    with pytest.raises(CaseFailed, match="a task is left over"):
        await _run(tmp_path, _case(), task=True)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


async def test_an_answer_that_reveals_an_upstream_address_is_reported(tmp_path: Path) -> None:
    case = _case(upstreams={"a": {"/x": {"template": {"at": "{headers.host}"}}}}, requests=[{"send": "GET /x", "expect": {"status": 200}}])
    with pytest.raises(CaseFailed, match="reveals the address of the upstream a"):
        await _run(tmp_path, case)


def test_a_document_is_filled_in() -> None:
    case = Case.model_validate(
        {"name": "it", "endpoint": {"path": "/"}, "configure": {"a": {"timeout": "1s"}}, "upstreams": {"a": {}, "b": {}}, "hits": {},
         "requests": [{"send": "GET /", "expect": {"status": 200}}]}
    )  # fmt: skip
    document = json.loads(document_text(case, {"a": 1, "b": 2}, Path("there")))
    assert document == {
        "version": 1,
        "defaults": {"timeout": "10s"},
        "upstreams": {
            "a": {"connect_timeout": "10s", "url": "http://127.0.0.1:1", "timeout": "1s"},
            "b": {"connect_timeout": "10s", "url": "http://127.0.0.1:2"},
        },
        "endpoints": [{"path": "/"}],
    }


def test_a_timeout_set_by_the_document_is_kept() -> None:
    case = Case.model_validate(
        {
            "name": "it",
            "document": {"defaults": {"timeout": "1s", "max_body": "1KiB"}},
            "requests": [{"send": "GET /", "expect": {"status": 200}}],
        }
    )
    assert json.loads(document_text(case, {}, Path("there")))["defaults"] == {"timeout": "1s", "max_body": "1KiB"}


def test_a_document_expected_to_be_rejected_gets_no_timeout() -> None:
    case = Case.model_validate({"name": "it", "document": {}, "expect_problems": []})
    assert "defaults" not in json.loads(document_text(case, {}, Path("there")))


def test_a_document_as_text_is_unchanged() -> None:
    case = Case.model_validate({"name": "it", "document": "a: //{a} ${file:{folder}/x}", "expect_problems": []})
    assert document_text(case, {"a": 1}, Path("there")) == "a: //127.0.0.1:1 ${file:there/x}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("about: x\ncases: [{name: a, endpoint: {}, requets: []}]", "cases.0.requets (case 'a'): Extra inputs"),
        ("about: x\ncases: [{name: a, endpoint: {}}]", "a case has either requests or expect_problems"),
        ("about: x\ncases:\n - {name: a, endpoint: {}, upstreams: {u: {}}, requests: [{send: GET /, expect: {status: 200}}]}", "hits"),
        ("about: x\ncases:\n - {name: a, endpoint: {}, expect_problems: []}\n - {name: a, endpoint: {}, expect_problems: []}", "two cases"),
        ("about: x\ncases: [{name: a, endpoint: {}, hits: {u: 1}, requests: [{send: GET /, expect: {status: 200}}]}]", "no upstream u"),
        ("about: x\ncases: [{name: a, endpoint: {}, requests: [{send: GET /}]}]", "either expect or leave_after_hits"),
    ],
)
def test_a_spec_file_with_a_mistake_is_rejected(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(SpecError) as refused:
        read_spec_file(tmp_path / "x.yaml")
    assert said in str(refused.value)


def test_an_unknown_behaviour_is_rejected() -> None:
    with pytest.raises(SpecError, match="explode"):
        script("a", {"/x": {"explode": True}})


@pytest.mark.parametrize("key", ["once_hit", "once_aborted"])
@pytest.mark.parametrize("names", ["b", ["a", "b"], {"b": 2}])
async def test_a_behaviour_that_waits_for_an_unknown_upstream_is_rejected(tmp_path: Path, key: str, names: object) -> None:
    with pytest.raises(SpecError, match="upstream a: its answers wait for upstreams that do not exist: b"):
        await _run(tmp_path, _case(upstreams={"a": {"/x": [{}, {key: names}]}}))


async def test_a_request_may_wait_for_answers_and_an_expired_wait_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (
        {"send": "GET /x", "after_answers": 1, "expect": {"status": 200}},
        {"send": "GET /x", "expect": {"status": 200}},
    )
    await _run(tmp_path, _case(requests=[first, second], together=True, hits={"a": 2}))
    monkeypatch.setattr("tests.support.specs.PATIENCE_S", 0.0)
    for waits_for in ({"after_answers": 3}, {"after_hits": {"a": 3}}, {"after_aborted": {"a": 1}}):
        with pytest.raises(CaseFailed, match="timed out waiting for") as failed:
            await _run(tmp_path, _case(requests=[{**second, **waits_for}], hits={}))
        assert str(waits_for) in str(failed.value)


def test_problems_are_compared_one_to_one() -> None:
    case = Case.model_validate({"name": "it", "endpoint": {}, "expect_problems": [{"path": "a.b", "message": "no", "hint": "yes"}]})
    problem = Problem(file="f", line=1, column=1, path="a.b", message="no good", hint="say yes")
    check_problems(case, [problem])
    with pytest.raises(CaseFailed, match="did not expect the problem"):
        check_problems(case, [problem, problem])
    with pytest.raises(CaseFailed, match="expected a problem"):
        check_problems(case, [])


@pytest.mark.parametrize(
    "received",
    [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab", b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab"],
)
def test_an_answer_with_wrong_framing_is_detected(received: bytes) -> None:
    with pytest.raises(FramingError):
        parse(received)


def test_a_body_after_head_is_detected() -> None:
    with pytest.raises(FramingError):
        parse(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab", is_head=True)


SPECS_MD = (Path(__file__).parents[3] / "docs" / "specs.md").read_text("utf-8")


@pytest.mark.parametrize("model", [Case, Sent, Expect, Seen, ExpectedProblem])
def test_every_key_of_a_spec_is_documented(model: type[BaseModel]) -> None:
    keys = [field.alias or name for name, field in model.model_fields.items()]
    assert [key for key in keys if f"`{key}`" not in SPECS_MD] == []


def test_every_key_of_a_behaviour_is_documented() -> None:
    keys = [field.name for field in fields(Behaviour) if field.name != "has_json"]
    assert [key for key in keys if f"`{key}`" not in SPECS_MD] == []
