"""Replays records of a real gateway, failures of all kinds included, through its own document: nothing may differ. Also live."""

import asyncio
import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from anabranch.cli.main import cli
from anabranch.journal.reader import records
from anabranch.testing.scripted.upstream import ScriptedUpstream
from tests.support.gateway import running_gateway

DOCUMENT = """
version: 1
upstreams:
  a: {{url: "{url}", timeout: 700ms, retry: {{attempts: 2, backoff: 1ms}}}}
  away: {{url: "http://127.0.0.1:1"}}
  narrow: {{url: "{url}", concurrency: {{limit: 1, queue: 0}}}}
defaults: {{timeout: 5s}}
journal: {{durability: required, redact: {{paths: [secret, "**.deep"], query: [token]}}}}
endpoints:
  - path: /whole/{{id}}
    name: whole
    parameters: {{token: {{in: query, schema: {{type: string}}}}}}
    steps:
      one: {{upstream: a, path: "/one/{{path.id}}", query: {{token: fixed}}, required: true}}
      two: {{upstream: a, path: /two, query: {{of: "{{one.n}}"}}, drop: [x], rename: {{y: z}}}}
      gone: {{upstream: away, path: /gone, default: {{n: 0}}}}
      after: {{upstream: a, path: "/after/{{two.missing}}"}}
    journal: {{bodies: steps}}
  - path: /strict
    name: strict
    steps:
      slow: {{upstream: a, path: /slow}}
      one: {{upstream: a, path: /refused, required: true}}
      other: {{upstream: a, path: /broken, required: true}}
    journal: {{bodies: steps}}
  - path: /nothing
    name: nothing
    steps:
      slow: {{upstream: a, path: /slow, method: GET}}
    journal: {{bodies: steps}}
  - path: /odd
    name: odd
    steps:
      text: {{upstream: a, path: /text}}
      bad: {{upstream: a, path: /status}}
      empty: {{upstream: a, path: /empty}}
      first: {{upstream: narrow, path: /one/1}}
      second: {{upstream: narrow, path: /one/2}}
    journal: {{bodies: steps}}
  - path: /lists
    name: lists
    steps:
      list: {{upstream: a, path: /list}}
      each: {{upstream: a, path: "/one/{{item.id}}", each: "{{list.items}}", distinct: "{{item.id}}", pick: [n, secret], join: {{into: list.items, as: one}}}}
      some: {{upstream: a, path: "/some/{{item.id}}", each: "{{list.items}}", at_once: 2}}
      many: {{upstream: a, method: POST, path: /many, idempotent: true, body: {{ids: "{{batch}}"}}, each: "{{list.items}}", batch: {{size: 2, key: "{{item.id}}", match: id}}}}
      skip: {{upstream: a, path: /one, query: {{id: "{{list.none}}"}}}}
      may: {{upstream: a, path: "/one/{{list.null?}}"}}
    journal: {{bodies: steps}}
  - path: /lists/strict
    name: strict_lists
    steps:
      list: {{upstream: a, path: /list, required: true}}
      some: {{upstream: a, path: "/some/{{item.id}}", each: "{{list.items}}", required: true}}
    journal: {{bodies: steps}}
  - path: /orders
    name: orders
    method: POST
    body: {{schema: {{type: object, required: [n]}}}}
    steps:
      order: {{upstream: a, method: POST, path: /orders, body: {{n: "{{body.n}}", list: ["{{body.l}}"]}}}}
    response: {{status: 201}}
    journal: {{bodies: steps}}
"""
SCRIPT: dict[str, Any] = {
    "/one/{id}": {"json": {"n": 1.50, "secret": "x", "list": [{"deep": 1, "m": 2}]}},
    "/two": {"json": {"x": 1, "y": [1e2, "\u00e9"]}},
    "/slow": {"hang": True},
    "/refused": {"status": 404, "json": {"why": "no"}, "delay_s": 0.02},
    "/broken": {"status": 500, "delay_s": 0.05},
    "/text": {"body": "no json"},
    "/status": {"status": 503},
    "/empty": {"status": 204},
    "/list": {"json": {"items": [{"id": 1}, {"id": 2}, {"id": 1}, {"id": 3}, {}], "none": [], "null": None}},
    "/some/{id}": {"template": {"of": "{path}"}},
    "/some/2": {"status": 404, "delay_s": 0.02},
    "/many": {"json": [{"id": 1, "secret": "s"}, {"id": "3"}]},
    "/orders": {"status": 201, "json": {"id": 7}},
}


async def ask(document: str, folder: Path) -> None:
    async with running_gateway(document, folder, journal_path=folder / "journal") as gateway, gateway.client() as client:
        for number in range(3):
            await client.get(f"/whole/{number}")
            await client.get(f"/whole/{number}?token=abc&other=1")
            await client.head(f"/whole/{number}")
        await client.get("/whole/a%20b%2Fc")
        for path in ("/strict", "/nothing", "/odd", "/lists", "/lists/strict"):
            await client.get(path)
        await client.post("/orders", json={"n": 12345678901234567890123, "l": "\u00e9\n"})
        await client.post("/orders", json={})
        await client.post("/orders", content=b"{", headers={"content-type": "application/json"})


def replay(folder: Path, document: str, *options: str) -> tuple[int, dict[str, Any]]:
    path = folder / "new.yaml"
    path.write_text(document, "utf-8")
    command = ["replay", "--config", str(path), "--journal", str(folder / "journal"), "--format", "json", *options]
    result = CliRunner().invoke(cli, command)
    return result.exit_code, json.loads(result.stdout)


async def test_an_unchanged_document_gives_no_differences(tmp_path: Path) -> None:
    async with ScriptedUpstream(SCRIPT) as upstream:
        document = DOCUMENT.format(url=upstream.url)
        await ask(document, tmp_path)
        hits = sum(1 for _ in upstream.hits)
    code, report = await asyncio.to_thread(replay, tmp_path, document)
    assert report["same"], json.dumps(report, indent=1)
    assert code == 0
    count = len(list(records(tmp_path / "journal")))
    endpoints = report["endpoints"]
    replayed = sum(of["replayed"] for of in endpoints.values())
    skipped = {reason for of in endpoints.values() for reason in of["skipped"]}
    # A redacted parameter that no step uses must still be valid for its schema.
    assert skipped == {"the query parameter token was redacted", "the request body was rejected, and is not in the record"}
    assert replayed + sum(sum(of["skipped"].values()) for of in endpoints.values()) == count
    assert {name: of["replayed"] for name, of in endpoints.items()} == {
        "whole": 7,
        "strict": 1,
        "nothing": 1,
        "odd": 1,
        "orders": 2,
        "lists": 1,
        "strict_lists": 1,
    }
    assert hits == sum(1 for _ in upstream.hits)

    changed = document.replace("drop: [x], rename: {y: z}", "pick: [x, missing]")
    code, report = await asyncio.to_thread(replay, tmp_path, changed)
    assert code == 1
    different = {name: sorted(of["fields"]) for name, of in report["endpoints"].items() if of["different"]}
    assert different == {"whole": ["two.x", "two.z"]}


FORWARDING = """
version: 1
upstreams: {{a: {{url: "{url}", host: client}}}}
journal: {{durability: required, redact: {{query: [token]}}}}
endpoints:
  - path: /it
    name: it
    steps:
      one: {{upstream: a, path: "/one", forward_query: "*"}}
      two: {{upstream: a, path: "/two", forward_query: [q]}}
    journal: {{bodies: steps}}
"""


async def test_what_services_were_told_of_a_client_is_not_needed_to_replay_its_request(tmp_path: Path) -> None:
    async with ScriptedUpstream({"/one": {"json": 1}, "/two": {"json": 2}}) as upstream:
        document = FORWARDING.format(url=upstream.url)
        async with running_gateway(document, tmp_path, journal_path=tmp_path / "journal") as gateway, gateway.client() as client:
            await client.get("/it?q=a+b", headers={"host": "one.example", "x-forwarded-for": "203.0.113.7"})
            await client.get("/it?q=1&token=secret", headers={"host": "two.example"})
        assert [dict(hit.headers)["host"] for hit in upstream.hits] == ["one.example"] * 2 + ["two.example"] * 2
        code, report = await asyncio.to_thread(replay, tmp_path, document)
        assert (code, report["same"], report["endpoints"]["it"]["replayed"]) == (0, True, 2), json.dumps(report, indent=1)
        code, report = await asyncio.to_thread(replay, tmp_path, document, "--live")
        assert (code, report["same"], report["endpoints"]["it"]["replayed"]) == (0, True, 1), json.dumps(report, indent=1)
        assert list(report["endpoints"]["it"]["skipped"]) == [
            "a query parameter was redacted, and `***` must not be forwarded to a service"
        ]
        live = list(upstream.hits)[4:]
        assert sorted(hit.target for hit in live) == ["/one?q=a+b", "/two?q=a+b"]
        assert all("forwarded" not in dict(hit.headers) for hit in live)


async def test_live_calls_the_services_but_skips_calls_that_are_not_idempotent(tmp_path: Path) -> None:
    async with ScriptedUpstream(SCRIPT) as upstream:
        document = DOCUMENT.format(url=upstream.url)
        await ask(document, tmp_path)
        orders = sum(1 for hit in upstream.hits if hit.path == "/orders")
        code, report = await asyncio.to_thread(replay, tmp_path, document, "--live", "--endpoint", "orders", "--endpoint", "whole")
        assert sum(1 for hit in upstream.hits if hit.path == "/orders") == orders
        assert (code, report["same"]) == (0, True), json.dumps(report, indent=1)
        assert any(reason.startswith("one of its calls is not idempotent") for reason in report["endpoints"]["orders"]["skipped"])
