"""The pytest plugin: what it collects, how it reports, and that it leaves everybody else alone."""

import subprocess
import sys

import pytest

from tests.support.paths import ROOT

SPECS = """
about: x
cases:
  - name: a holds
    upstreams: {a: {/a: {json: 1}}}
    endpoint: {path: /it, steps: {a: {upstream: a, path: /a}}}
    requests: [{send: GET /it, expect: {status: 200, json: {a: 1}}}]
    hits: {a: 1}
  - name: b does not
    endpoint: {path: /it, steps: {a: {upstream: a, path: /a}}}
    configure: {a: {url: "http://{nobody}"}}
    requests: [{send: GET /it, expect: {status: 200}}]
"""
OPTIONS = ("-p", "no:anabranch", "-p", "anabranch.testing.plugin", "-p", "no:cacheprovider", "-p", "no:asyncio")


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """A project with a spec file, a document and a test."""
    pytester.mkdir("specs")
    (pytester.path / "specs" / "first.yaml").write_text(SPECS, "utf-8")
    (pytester.path / "specs" / "notes.txt").touch()
    (pytester.path / "gateway.yaml").write_text(
        "version: 1\nupstreams: {a: {url: 'http://a.test'}}\nendpoints: [{path: /it, steps: {a: {upstream: a, path: /a}}}]\n", "utf-8"
    )
    return pytester


def run(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return project.runpytest_inprocess(*OPTIONS, *arguments)


def test_nothing_is_collected_unless_the_project_says_so(project: pytest.Pytester) -> None:
    project.makepyfile(test_own="def test_own(): pass")
    run(project).assert_outcomes(passed=1)


def test_the_cases_of_the_folders_are_tests_with_a_report(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\nanabranch_specs = specs")
    result = run(project, "-v")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*first.yaml::a holds PASSED*",
            "*first.yaml::b does not FAILED*",
            "case 'b does not'",
            "- request 1 (GET /it): status: expected 200, got 502",
            "received:",
        ]
    )
    result.stdout.no_fnmatch_line("*Traceback*")


def test_cases_are_selected_by_their_names(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\nanabranch_specs = specs")
    run(project, "-k", "holds").assert_outcomes(passed=1, deselected=1)
    run(project, "specs/first.yaml::a holds").assert_outcomes(passed=1)


def test_a_case_without_a_document_tests_the_one_of_the_project(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\nanabranch_specs = specs\nanabranch_document = gateway.yaml")
    (project.path / "specs" / "first.yaml").write_text(
        "about: x\nupstreams: {a: {/a: {json: 1}}}\ncases: [{name: it, requests: [{send: GET /it, expect: {status: 200, json: {a: 1}}}]}]\n",
        "utf-8",
    )
    run(project).assert_outcomes(passed=1)


def test_a_wrong_spec_file_and_a_wrong_document_are_told_without_a_traceback(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\nanabranch_specs = specs")
    (project.path / "specs" / "wrong.yaml").write_text("about: x\ncases: [{name: a, endpoint: {}, requets: []}]", "utf-8")
    result = run(project)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*wrong.yaml:2:33: cases[[]0[]].requets: unknown key `requets`; did you mean `requests`?"])
    result.stdout.no_fnmatch_line("*Traceback*")
    (project.path / "specs" / "wrong.yaml").write_text(
        "about: x\ncases: [{name: a, endpoint: {pth: /}, requests: [{send: GET /, expect: {status: 200}}]}]", "utf-8"
    )
    result = run(project, "specs/wrong.yaml")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["the document of the case 'a' is not usable:", "*unknown key `pth`; did you mean `path`?"])


def test_the_fixture_takes_documents_from_the_root_folder(project: pytest.Pytester) -> None:
    project.mkdir("tests")
    (project.path / "tests" / "test_it.py").write_text(
        """
def test_sync(gateway, respx_mock):
    respx_mock.get("http://a.test/a").respond(json=1)
    with gateway("gateway.yaml", respx_mock) as running:
        assert running.client.get("/it").json() == {"a": 1}

def test_stray(gateway, respx_mock):
    with gateway("gateway.yaml", respx_mock) as running:
        running.client.get("/it")
""",
        "utf-8",
    )
    result = run(project, "tests")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["E*UnexpectedCall: no route matches the call GET http://a.test/a of the upstream a; the routes are: none"])


def test_a_fixture_of_the_same_name_wins(project: pytest.Pytester) -> None:
    project.makepyfile(test_own="import pytest\n@pytest.fixture\ndef gateway(): return 1\ndef test_own(gateway): assert gateway == 1")
    run(project).assert_outcomes(passed=1)


def test_several_gateways_run_in_one_test(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_own="""
import pytest

@pytest.fixture
def services():
    return {"a": {"/a": {"json": 1}}}

@pytest.fixture
def running(gateway, services):
    with gateway("gateway.yaml", services) as running:
        yield running

def test_two(gateway, running, respx_mock):
    respx_mock.get("http://a.test/a").respond(json=2)
    with gateway("gateway.yaml", respx_mock) as other:
        assert running.client.get("/it").json() == {"a": 1}
        assert other.client.get("/it").json() == {"a": 2}
        assert running.client.get("/it").json() == {"a": 1}
    assert (len(running.calls), len(other.calls)) == (2, 1)

def test_again(running):
    assert running.client.get("/it").json() == {"a": 1}
    assert len(running.calls) == 1
"""
    )
    run(project).assert_outcomes(passed=2)


def test_functions_of_the_project_are_steps(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(project.path)
    (project.path / "own_hooks.py").write_text("def double(n: int) -> int:\n    return 2 * n\n", "utf-8")
    (project.path / "computed.yaml").write_text(
        """
version: 1
endpoints:
  - path: /double/{n}
    timeout: 30s
    parameters: {n: {in: path, schema: {type: integer}}}
    steps:
      here: {compute: "own_hooks:double", input: {n: "{path.n}"}}
      there: {compute: "own_hooks:double", input: {n: "{path.n}"}, executor: process, timeout: 30s}
""",
        "utf-8",
    )
    project.makepyfile(
        test_own="""
def test_it(gateway, monkeypatch):
    with gateway("computed.yaml", {}) as running:
        assert running.client.get("/double/21").json() == {"here": 42, "there": 42}
"""
    )
    run(project).assert_outcomes(passed=1)


ALONE = """
import sys, pytest
before = set(sys.modules)
import anabranch.testing.plugin
print(sorted(set(sys.modules) - before))
sys.modules["pytest"] = sys.modules["respx"] = None
import anabranch.cli.test, anabranch.testing.specs.report
from anabranch.testing import gateway
"""


def test_the_plugin_imports_nothing_and_the_rest_needs_neither_pytest_nor_respx() -> None:
    """pytest loads the plugin in every environment that has Anabranch; the command works where neither is installed."""
    done = subprocess.run([sys.executable, "-c", ALONE], cwd=ROOT / "app", capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['anabranch', 'anabranch.testing', 'anabranch.testing.plugin']"
