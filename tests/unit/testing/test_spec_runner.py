"""The spec runner itself, with a small ASGI application in place of the gateway: it must detect every kind of wrong expectation."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from anabranch.errors import Problem
from anabranch.testing.serving import serve
from anabranch.testing.specs.document import document_text
from anabranch.testing.specs.model import Case
from anabranch.testing.specs.read import Spec, SpecError
from anabranch.testing.specs.run import CaseFailed, Subject, check_problems, run_case, run_spec

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
    async def start(subject: Subject) -> AsyncIterator[int]:
        async with serve(_app(subject.document.read_text("utf-8"), **fault)) as port:
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


async def test_an_error_that_is_no_problem_is_reported_unless_the_case_expects_another_content_type(tmp_path: Path) -> None:
    sent = {"send": "GET /none", "expect": {"status": 404}}
    with pytest.raises(CaseFailed, match=r"expected application/problem\+json for status 404"):
        await _run(tmp_path, _case(requests=[sent]))
    expect = {"status": 404, "headers": {"content-type": None}}
    await _run(tmp_path, _case(requests=[{**sent, "expect": expect}]))


async def test_a_service_that_is_down_refuses(tmp_path: Path) -> None:
    with pytest.raises(CaseFailed, match="All connection attempts failed"):
        await _run(tmp_path, _case(upstreams={"a": {"down": True}}, hits={"a": 0}))


@pytest.mark.parametrize("key", ["once_hit", "once_aborted"])
@pytest.mark.parametrize("names", ["b", ["a", "b"], {"b": 2}])
async def test_a_behaviour_that_waits_for_an_upstream_that_does_not_exist_is_refused(tmp_path: Path, key: str, names: object) -> None:
    with pytest.raises(ValueError, match="upstream a: its answers wait for upstreams that do not exist: b"):
        await _run(tmp_path, _case(upstreams={"a": {"/x": [{}, {key: names}]}}))


async def test_a_request_may_wait_for_answers_and_an_expired_wait_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (
        {"send": "GET /x", "after_answers": 1, "expect": {"status": 200}},
        {"send": "GET /x", "expect": {"status": 200}},
    )
    await _run(tmp_path, _case(requests=[first, second], together=True, hits={"a": 2}))
    monkeypatch.setattr("anabranch.testing.specs.run.PATIENCE_S", 0.0)
    for waits_for in ({"after_answers": 3}, {"after_hits": {"a": 3}}, {"after_aborted": {"a": 1}}):
        with pytest.raises(CaseFailed, match="timed out waiting for") as failed:
            await _run(tmp_path, _case(requests=[{**second, **waits_for}], hits={}))
        assert str(waits_for) in str(failed.value)


# ---------------------------------------------------------------------------------------------------------- the document


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


def test_problems_are_compared_one_to_one() -> None:
    case = Case.model_validate({"name": "it", "endpoint": {}, "expect_problems": [{"path": "a.b", "message": "no", "hint": "yes"}]})
    problem = Problem(file="f", line=1, column=1, path="a.b", message="no good", hint="say yes")
    check_problems(case, [problem])
    with pytest.raises(CaseFailed, match="did not expect the problem"):
        check_problems(case, [problem, problem])
    with pytest.raises(CaseFailed, match="expected a problem"):
        check_problems(case, [])


# ------------------------------------------------------------------------------------------------- a gateway of the product

DOCUMENT = """
version: 1
upstreams:
  flights: {url: "https://flights.test/api", follow_redirects: 1, dns_ttl: 1s, tls: {min_version: "1.3"}, retry: {attempts: 2, backoff: 1ms}}
  weather: {urls: ["http://weather.test", "http://weather2.test"], transport: httpx, proxy: "http://proxy.test:3128", timeout: 500ms}
  partner: {url: "http://partner.test", oauth2: {token_url: "https://auth.test/token", client_id: me, client_secret: "${PARTNER_SECRET}"}}
endpoints:
  - path: /flights/{id}
    timeout: 5s
    parameters: {id: {in: path, schema: {type: integer}}}
    steps:
      flight: {upstream: flights, path: "/flights/{path.id}", required: true}
      weather: {upstream: weather, path: "/at/{flight.origin}"}
  - path: /partner
    steps: {it: {upstream: partner, path: /it}}
"""
FLIGHTS = {"/api/flights/1": {"json": {"origin": "JFK"}}}


def _own(folder: Path, **case: Any) -> Spec:
    """A case of a team's own document."""
    path = folder / "own.yaml"
    path.write_text(DOCUMENT, "utf-8")
    given = {"name": "it", "env": {"PARTNER_SECRET": "s"}, **case}
    return Spec(path=folder / "it.yaml", line=1, case=Case.model_validate(given), document=path)


def _get(target: str, **expect: Any) -> list[dict[str, Any]]:
    return [{"send": f"GET {target}", "expect": {"status": 200, **expect}}]


def test_scripts_take_the_place_of_the_document_s_services(tmp_path: Path) -> None:
    run_spec(
        _own(
            tmp_path,
            upstreams={"flights": FLIGHTS, "weather": {"/at/JFK": {"json": {"temp": 39}}}},
            requests=_get("/flights/1", json={"flight": {"origin": "JFK"}, "weather": {"temp": 39}}),
            seen={"flights": [{"target": "/api/flights/1"}]},
        )
    )


def test_policies_of_the_document_are_those_of_production(tmp_path: Path) -> None:
    run_spec(
        _own(
            tmp_path,
            upstreams={
                "flights": {
                    "/api/flights/1": [{"status": 503}, {"status": 302, "headers": {"location": "/api/flights/2"}}],
                    "/api/flights/2": {"json": {"origin": "JFK"}},
                },
                "weather": {"*": {"hang": True}},
            },
            requests=_get(
                "/flights/1", json={"flight": {"origin": "JFK"}, "weather": None}, headers={"server-timing": {"contains": "timeout"}}
            ),
            hits={"flights": {"/api/flights/1": 2, "/api/flights/2": 1}, "weather": 1},
            aborted={"weather": 1},
        )
    )


def test_hits_are_not_checked_where_a_case_of_a_team_s_document_says_none(tmp_path: Path) -> None:
    run_spec(_own(tmp_path, upstreams={"flights": FLIGHTS, "weather": {"down": True}}, requests=_get("/flights/1")))


def test_a_call_that_no_script_answers_fails_the_case(tmp_path: Path) -> None:
    with pytest.raises(CaseFailed, match="no script answers the call GET /at/JFK of the upstream weather: add `weather`"):
        run_spec(_own(tmp_path, upstreams={"flights": FLIGHTS}, requests=_get("/flights/1")))


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"upstreams": {"flihgts": {}}}, "the document has no upstream flihgts; did you mean `flights`"),
        ({"hits": {"xyz": 1}}, "the document has no upstream xyz; it has flights, partner, partner.oauth2, weather"),
    ],
)
def test_an_upstream_that_the_document_does_not_have_is_refused(tmp_path: Path, named: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        run_spec(_own(tmp_path, requests=_get("/flights/1"), **named))


def test_an_authority_without_a_script_issues_a_token(tmp_path: Path) -> None:
    run_spec(
        _own(
            tmp_path,
            upstreams={"partner": {"/it": {"json": 1}}},
            requests=_get("/partner", json={"it": 1}),
            seen={"partner": [{"headers": {"authorization": "Bearer test-token"}}]},
        )
    )


def test_an_authority_has_a_script_under_its_upstream_s_name(tmp_path: Path) -> None:
    run_spec(
        _own(
            tmp_path,
            upstreams={
                "partner": {"/it": {"json": 1}},
                "partner.oauth2": {"POST /token": {"json": {"access_token": "t-1", "token_type": "bearer", "expires_in": 60}}},
            },
            requests=_get("/partner", json={"it": 1}),
            seen={
                "partner": [{"headers": {"authorization": "Bearer t-1"}}],
                "partner.oauth2": [{"headers": {"authorization": "Basic bWU6cw=="}}],
            },
        )
    )


def test_a_document_that_is_not_usable_is_no_failure_of_the_case(tmp_path: Path) -> None:
    case = Case.model_validate({"name": "it", "endpoint": {"path": "/x", "stepz": {}}, "requests": _get("/x")})
    with pytest.raises(SpecError, match=r"gateway\.yaml:.*unknown key `stepz`; did you mean `steps`"):
        run_spec(Spec(path=tmp_path / "it.yaml", line=1, case=case, document=None))


def test_what_the_gateway_logged_is_in_the_report(tmp_path: Path) -> None:
    with pytest.raises(CaseFailed) as failed:
        run_spec(_own(tmp_path, upstreams={"flights": {"/api/flights/1": {"status": 404}}}, requests=_get("/flights/1")))
    assert re.search(r'the gateway logged: \w+: request .*method="GET" path="/flights/1" status=404', str(failed.value))


def test_settings_and_variables_of_the_machine_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANABRANCH_ADMIN_PORT", "no number")
    monkeypatch.setenv("ANABRANCH_ALLOW_EXPLAIN", "true")
    case = Case.model_validate(
        {
            "name": "it",
            "endpoint": {"path": "/x", "steps": {"a": {"upstream": "a", "path": "/a"}}},
            "upstreams": {"a": {"/a": {"json": 1}}},
            "requests": _get("/x?_explain=true", json={"a": 1}),
            "hits": {"a": 1},
        }
    )
    run_spec(Spec(path=tmp_path / "it.yaml", line=1, case=case, document=None))
