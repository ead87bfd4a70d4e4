"""Replays results of policies: records of a real gateway with retries, hedges, stale answers, defaults, samples and endpoints that keep no
answers, through their own document and through others."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from anabranch.cli.main import cli
from anabranch.journal.reader import records
from anabranch.testing.scripted.upstream import ScriptedUpstream
from tests.support.gateway import running_gateway

DOCUMENT = """
version: 1
upstreams:
  a: {url: "URL", retry: {attempts: 3, backoff: 1ms, budget: 100%, on: [503]}}
  hedged: {url: "URL", hedge: {after: 20ms, budget: 100%}}
defaults: {timeout: 20s}
journal: {durability: required}
endpoints:
  - path: /tried
    name: tried
    steps:
      again: {upstream: a, path: /second-time}
      hedge: {upstream: hedged, path: /first-hangs}
      gone: {upstream: a, path: /gone, default: {n: 1}, drop: [m]}
    journal: {bodies: steps}
  - path: /old/{id}
    name: old
    steps:
      one: {upstream: a, path: "/old/{path.id}", stale_if_error: 1h}
      two: {upstream: a, path: /fine}
    journal: {bodies: steps}
  - path: /cached/{id}
    name: cached
    steps: {one: {upstream: a, path: "/cached/{path.id}", cache: {stale_if_error: 1h}}}
    journal: {bodies: steps}
  - path: /orders
    name: orders
    method: POST
    steps: {order: {upstream: a, method: POST, path: /orders, body: "{body}", idempotent: true}}
    journal: {bodies: steps}
  - path: /brief
    name: brief
    body: {required: false}
    method: POST
    steps: {one: {upstream: a, method: GET, path: /fine}}
    journal: true
  - path: /briefer
    name: briefer
    steps: {one: {upstream: a, path: /fine}}
    journal: {bodies: none}
  - path: /sampled/{id}
    name: sampled
    steps: {one: {upstream: a, path: /fine}}
    journal: {bodies: steps, sample: 50%}
"""
SCRIPT: dict[str, Any] = {
    "/second-time": [{"status": 503}, {"json": 2}],
    "/first-hangs": [{"hang": True}, {"json": "second"}],
    "/gone": {"status": 404},
    "/old/{id}": [{"json": {"n": 1}}, {"status": 500}],
    "/cached/{id}": [
        {"json": {"n": 1}, "headers": {"cache-control": "max-age=0"}},
        {"json": {"n": 2}, "headers": {"cache-control": "max-age=60"}},
    ],
    "/fine": {"json": [1.0]},
    "/orders": {"status": 201, "json": {"id": 7}},
}
SAMPLED = 40


@pytest.fixture
async def recorded(tmp_path: Path) -> str:
    """The document of a gateway that has recorded a request to each of its endpoints."""
    async with ScriptedUpstream(SCRIPT) as upstream:
        document = DOCUMENT.replace("URL", upstream.url)
        async with running_gateway(document, tmp_path, journal_path=tmp_path / "journal") as gateway, gateway.client() as client:
            for path in (
                "/tried",
                "/old/1",
                "/old/1",
                "/cached/1",
                "/cached/1",
                "/cached/1",
                "/briefer",
                *(f"/sampled/{number}" for number in range(SAMPLED)),
            ):
                assert (await client.get(path)).status_code == 200
            await client.post("/orders", json={"n": [1, 2.50]})
            await client.post("/brief")
            await client.post("/brief", json={"n": 1})
    return document


def replay(folder: Path, document: str, *options: str) -> tuple[int, str]:
    path = folder / "new.yaml"
    path.write_text(document, "utf-8")
    result = CliRunner().invoke(cli, ["replay", "--config", str(path), "--journal", str(folder / "journal"), *options])
    return result.exit_code, result.stdout


async def test_results_of_policies_are_replayed_and_skipped_records_are_counted_with_advice(recorded: str, tmp_path: Path) -> None:
    found = list(records(tmp_path / "journal"))
    (tried,) = (record for record in found if record.endpoint == "tried")
    assert [(step.failure, step.attempts > 1) for step in tried.steps] == [(None, True), (None, True), ("upstream_status", False)]
    assert [record.steps[0].age_s is None for record in found if record.endpoint == "old"] == [True, False]
    kept = sum(record.endpoint == "sampled" for record in found)
    code, shown = await asyncio.to_thread(replay, tmp_path, recorded, "--format", "json")
    report = json.loads(shown)
    endpoints = report["endpoints"]
    assert (code, report["same"]) == (0, True), shown
    assert {name: of["replayed"] for name, of in endpoints.items() if name != "sampled"} == {
        "tried": 1, "old": 2, "cached": 3, "orders": 1, "brief": 0, "briefer": 0,
    }  # fmt: skip
    assert endpoints.get("sampled", {"replayed": 0})["replayed"] == kept
    without_answers = "the services' answers were not kept (`bodies: steps` keeps them)"
    assert endpoints["brief"]["skipped"] == {without_answers: 1, "the request body was not kept (`bodies: steps` keeps it)": 1}
    assert endpoints["briefer"]["skipped"] == {without_answers: 1}
    code, shown = await asyncio.to_thread(replay, tmp_path, recorded)
    assert f"no difference in {kept + 7} records, 3 could not be replayed" in shown


@pytest.mark.parametrize(
    ("was", "becomes", "differs"),
    [
        ("default: {n: 1}", "default: {n: 2}", {"tried": ["gone.n"]}),
        (", stale_if_error: 1h", "", {"old": ["one"]}),
        ("retry: {attempts: 3, backoff: 1ms, budget: 100%, on: [503]}", "retry: {attempts: 1}", {}),
        (", hedge: {after: 20ms, budget: 100%}", "", {}),
        ('body: "{body}"', 'body: {order: "{body}"}', {"orders": []}),
    ],
)
async def test_a_change_is_detected_when_the_record_contains_the_evidence(
    recorded: str, tmp_path: Path, was: str, becomes: str, differs: dict[str, list[str]]
) -> None:
    assert was in recorded
    _, shown = await asyncio.to_thread(replay, tmp_path, recorded.replace(was, becomes), "--format", "json")
    found = json.loads(shown)["endpoints"]
    assert {name: sorted(of["fields"]) for name, of in found.items() if of["different"]} == differs


async def test_the_exit_code_is_not_zero_when_nothing_could_be_replayed(recorded: str, tmp_path: Path) -> None:
    code, shown = await asyncio.to_thread(replay, tmp_path, recorded, "--endpoint", "brief")
    assert code == 2
    assert "nothing was replayed, 2 could not be replayed" in shown
