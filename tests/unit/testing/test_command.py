"""`anabranch test`: what it prints, and its exit codes."""

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from typer.testing import CliRunner, Result

from anabranch.cli.main import cli

GATEWAY = "version: 1\nupstreams: {a: {url: 'http://a.test'}}\nendpoints: [{path: /it, steps: {a: {upstream: a, path: /a}}}]\n"
OTHER = GATEWAY.replace("/it", "/other")
PASSING = """
about: x
document: ../gateway.yaml
upstreams: {a: {/a: {json: 1}}}
cases:
  - {name: it answers, requests: [{send: GET /it, expect: {status: 200, json: {a: 1}}}], hits: {a: 1}}
"""
FAILING = """
about: x
document: ../gateway.yaml
cases:
  - name: it <answers>
    upstreams: {a: {/a: {json: {n: 1}}}}
    requests: [{send: GET /it, expect: {status: 200, json: {a: {n: 2}}}}]
  - {name: nobody is called, requests: [{send: GET /it, expect: {status: 502}}]}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, content in {"gateway.yaml": GATEWAY, "other.yaml": OTHER, "specs/passing.yaml": PASSING}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, "utf-8")
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["test", *arguments])


def test_cases_that_pass(project: Path) -> None:
    result = run("specs")
    assert result.exit_code == 0
    line, summary = result.stdout.splitlines()
    assert line.startswith("ok     specs/passing.yaml:6: it answers (")
    assert summary.startswith("1 case: 1 passed in ")


def test_cases_that_fail_are_told_with_what_was_expected_and_what_came(project: Path) -> None:
    (project / "specs" / "failing.yaml").write_text(FAILING, "utf-8")
    result = run("specs")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0].startswith("FAILED specs/failing.yaml:5: it <answers> (")
    assert "    - request 1 (GET /it): $.a.n: expected 2, got 1" in lines
    assert "    - no script answers the call GET /a of the upstream a: add `a`" in lines
    assert lines[-1].startswith("3 cases: 1 passed, 2 failed in ")


def test_another_document_is_tested_by_the_same_specs(project: Path) -> None:
    result = run("specs", "--config", "other.yaml")
    assert result.exit_code == 1
    assert "status: expected 200, got 404" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["specs", "-k", "nothing like it"], "nothing to run: no case matches 'nothing like it'"),
        (["empty"], "nothing to run: there are no spec files"),
        (["none"], "none: there is no such file or folder"),
        ([], "Missing argument"),
    ],
)
def test_nothing_to_run_is_bad_use(project: Path, arguments: list[str], said: str) -> None:
    (project / "empty").mkdir()
    result = run(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_cases_are_selected_by_a_word(project: Path) -> None:
    (project / "specs" / "failing.yaml").write_text(FAILING, "utf-8")
    assert run("specs", "-k", "IT ANSWERS").exit_code == 0
    assert run("specs", "-k", "failing").stdout.splitlines()[-1].startswith("2 cases: 2 failed")


def test_wrong_spec_files_are_told_together_and_nothing_is_run(project: Path) -> None:
    for name in ("a", "b"):
        (project / "specs" / f"{name}.yaml").write_text("about: x", "utf-8")
    result = run("specs")
    assert result.exit_code == 3
    assert [line.split(": ")[0] for line in result.stderr.splitlines()] == ["specs/a.yaml:1:1", "specs/b.yaml:1:1"]
    assert result.stdout == ""


@pytest.mark.parametrize("document", ["version: 2", "version: 1\nendpoints: [{pth: /x}]", None])
def test_a_document_that_is_not_usable_is_exit_code_3(project: Path, document: str | None) -> None:
    if document is None:
        (project / "gateway.yaml").unlink()
    else:
        (project / "gateway.yaml").write_text(document, "utf-8")
    result = run("specs")
    assert result.exit_code == 3
    assert "BROKEN specs/passing.yaml:6: it answers" in result.stdout
    assert "the document of the case 'it answers' is not usable:" in result.stdout


def test_results_as_json(project: Path) -> None:
    (project / "specs" / "failing.yaml").write_text(FAILING, "utf-8")
    result = run("specs", "--format", "json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert (found["passed"], found["failed"], found["broken"]) == (1, 2, 0)
    assert [(case["file"], case["line"], case["name"], case["outcome"]) for case in found["cases"]] == [
        ("specs/failing.yaml", 5, "it <answers>", "failed"),
        ("specs/failing.yaml", 8, "nobody is called", "failed"),
        ("specs/passing.yaml", 6, "it answers", "passed"),
    ]
    assert "$.a.n: expected 2, got 1" in found["cases"][0]["report"]


def test_results_as_junit(project: Path) -> None:
    (project / "specs" / "failing.yaml").write_text(FAILING.replace("it <answers>", r'"it <answers \u0001>"'), "utf-8")
    result = run("specs", "--format", "junit", "--output", "made/results.xml")
    assert (result.exit_code, result.stdout) == (1, "")
    root = ET.fromstring((project / "made" / "results.xml").read_text("utf-8"))
    failing, passing = root.findall("testsuite")
    assert (failing.get("name"), failing.get("tests"), failing.get("failures"), passing.get("failures")) == (
        "specs/failing.yaml",
        "2",
        "2",
        "0",
    )
    case = failing.findall("testcase")[0]
    assert (case.get("name"), case.get("line")) == ("it <answers \\x01>", "5")
    failure = case.find("failure")
    assert failure is not None
    assert failure.get("message") == "request 1 (GET /it): $.a.n: expected 2, got 1"
    assert "received:" in (failure.text or "")


def test_the_schema_of_spec_files_is_shown() -> None:
    shown = json.loads(CliRunner().invoke(cli, ["schema", "--specs"]).stdout)
    assert set(shown["properties"]) == {"about", "document", "upstreams", "env", "settings", "cases"}
