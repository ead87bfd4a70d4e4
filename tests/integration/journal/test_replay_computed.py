"""Replays compute steps recorded by a real gateway: with the same functions, with changed ones, and after decisive failures."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from anabranch.cli.main import cli
from anabranch.journal.reader import records
from anabranch.testing.scripted.upstream import ScriptedUpstream
from tests.support.gateway import running_gateway
from tests.support.paths import ROOT

HOOKS = "tests.support.replay_hooks"
DOCUMENT = """
version: 1
upstreams: {a: {url: "URL"}}
defaults: {timeout: 20s}
journal: {durability: required}
compute_backends:
  roomy: {kind: thread}
  narrow: {kind: thread, workers: 1, queue: 0}
endpoints:
  - path: /sums/{id}
    name: sums
    steps:
      list: {upstream: a, path: "/list/{path.id}", hidden: true}
      sum: {compute: "HOOKS:total", input: {items: "{list.items}"}, executor: process}
      label: {compute: "HOOKS:label", input: {of: "{sum.sum}"}}
      next: {upstream: a, path: "/next/{label}"}
      boxed: {compute: "HOOKS:wrapped", input: {value: "{list.note}"}, pick: [is], executor: process}
    journal: {bodies: steps}
  - path: /narrow
    name: narrow
    steps:
      one: {compute: "HOOKS:wrapped", input: {value: 1}, pool: narrow}
      two: {compute: "HOOKS:wrapped", input: {value: 2}, pool: narrow, default: 0}
    journal: {bodies: steps}
  - path: /endless
    name: endless
    steps:
      list: {upstream: a, path: /list/1}
      never: {compute: "tests.support.hooks:spin", executor: process, timeout: 1s}
    journal: {bodies: steps}
  - path: /decided
    name: decided
    steps:
      slow: {upstream: a, path: /hang, required: true}
      list: {upstream: a, path: /list/1, required: true}
      sum: {compute: "HOOKS:total_that_fails", input: {items: "{list.items}"}, required: true}
      later: {compute: "HOOKS:wrapped", input: {value: "{slow}"}}
    journal: {bodies: steps}
"""
SCRIPT: dict[str, Any] = {
    "/list/{id}": {"json": {"items": [1.5, 2, 3], "note": {"n": 1.50}}, "headers": {"date": "Sun, 22 Nov 2026 16:00:00 GMT"}},
    "/next/{label}": {"json": {"ok": True}},
    "/hang": {"hang": True},
}
PATHS = ("/sums/1", "/sums/2", "/narrow", "/endless", "/decided")


@pytest.fixture
async def recorded(tmp_path: Path) -> str:
    """The document of a gateway that has recorded each of its endpoints; gateway and services have stopped."""
    async with ScriptedUpstream(SCRIPT) as upstream:
        document = DOCUMENT.replace("URL", upstream.url).replace("HOOKS", HOOKS)
        async with running_gateway(document, tmp_path, journal_path=tmp_path / "journal") as gateway, gateway.client() as client:
            for path in PATHS:
                await client.get(path)
    return document


async def replay(folder: Path, document: str, *options: str) -> tuple[int, dict[str, Any]]:
    path = folder / "new.yaml"
    path.write_text(document, "utf-8")
    command = ["replay", "--config", str(path), "--journal", str(folder / "journal"), "--format", "json", *options]
    result = await asyncio.to_thread(CliRunner().invoke, cli, command)
    assert result.exit_code in (0, 1), result.output
    return result.exit_code, json.loads(result.stdout)


async def test_the_same_functions_give_the_same_result_and_transient_failures_are_replayed(recorded: str, tmp_path: Path) -> None:
    before = {record.endpoint: record for record in records(tmp_path / "journal")}
    assert json.loads(before["sums"].body.to_bytes()) == {  # type: ignore[union-attr]
        "sum": {"sum": 6.5, "count": 3}, "label": "about 6", "next": {"ok": True}, "boxed": {"is": {"n": 1.5}},
    }  # fmt: skip
    assert {step.failure for step in before["narrow"].steps} == {None, "compute_pool_full"}
    assert before["endless"].steps[1].failure in ("compute_timeout", "deadline_exceeded")
    assert (before["decided"].status, before["decided"].failure) == (500, "compute_failed")
    code, report = await replay(tmp_path, recorded)
    assert (code, report["same"]) == (0, True), json.dumps(report, indent=1)
    assert {name: of["replayed"] for name, of in report["endpoints"].items()} == {"sums": 2, "narrow": 1, "endless": 1, "decided": 1}


async def test_output_of_functions_is_not_in_the_report(recorded: str, tmp_path: Path) -> None:
    (tmp_path / "new.yaml").write_text(recorded, "utf-8")
    options = ("--config", str(tmp_path / "new.yaml"), "--journal", str(tmp_path / "journal"), "--endpoint", "sums", "--format", "json")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "anabranch", "replay", *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    async with asyncio.timeout(120):
        report, said = await process.communicate()
    assert process.returncode == 0, said.decode()
    assert json.loads(report)["same"]
    assert said.count(b"what a function prints") == 2


async def test_a_changed_function_runs_on_the_recorded_answers_and_changes_the_response(recorded: str, tmp_path: Path) -> None:
    changed = recorded.replace(':total"', ':total_with_mean"')
    code, report = await replay(tmp_path, changed)
    sums = report["endpoints"]["sums"]
    assert code == 1
    assert {name for name, of in report["endpoints"].items() if of["different"]} == {"sums"}
    assert {path: list(kinds) for path, kinds in sums["fields"].items()} == {"sum.mean": ["added"]}
    assert (sums["different"], sums["new_calls"]) == (2, {})
    assert (await replay(tmp_path, changed, "--ignore", "sum.mean"))[0] == 0


async def test_a_function_that_now_fails_also_fails_its_dependents(recorded: str, tmp_path: Path) -> None:
    _, report = await replay(tmp_path, recorded.replace(':total"', ':total_that_fails"'), "--endpoint", "sums")
    sums = report["endpoints"]["sums"]
    assert sorted(sums["fields"]) == ["label", "next", "sum"]
    assert list(sums["complete"]) == ["complete -> incomplete"]
    assert sums["dropped_calls"]["a GET"]["before"] == "/next/about%206"


async def test_a_function_that_no_longer_fails_leads_to_calls_that_were_never_recorded(recorded: str, tmp_path: Path) -> None:
    _, report = await replay(tmp_path, recorded.replace(':total_that_fails"', ':total"'), "--endpoint", "decided")
    decided = report["endpoints"]["decided"]
    assert list(decided["new_calls"]) == ["a GET"]
    assert decided["new_calls"]["a GET"]["after"] == "/hang"
    assert list(decided["status"]) == ["500 -> 502"]
