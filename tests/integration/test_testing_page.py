"""The examples of docs/testing.md do what the page says."""

import re
import textwrap

import pytest
from typer.testing import CliRunner

from anabranch.cli.main import cli
from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "testing.md").read_text("utf-8")
DOCUMENT = """
version: 1
upstreams:
  flights: {url: http://flights.internal}
  weather: {url: http://weather.internal, timeout: 2s}
endpoints:
  - path: /flights/{id}/briefing
    parameters: {id: {in: path, schema: {type: integer}}}
    steps:
      flight: {upstream: flights, path: "/flights/{path.id}", required: true}
      weather: {upstream: weather, path: /weather, timeout: 1s}
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def without_times(text: str) -> str:
    return re.sub(r"\d+ ms|\d+\.\d s", "T", text)


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    (pytester.path / "gateway.yaml").write_text(DOCUMENT, "utf-8")
    pytester.mkdir("specs")
    (spec,) = blocks("yaml")
    (pytester.path / "specs" / "briefing.yaml").write_text(spec, "utf-8")
    return pytester


def test_spec_file_passes_with_the_output_of_the_page(project: pytest.Pytester) -> None:
    result = CliRunner().invoke(cli, ["test", "specs"])
    assert result.exit_code == 0
    (shown,) = blocks("console")
    assert without_times(result.stdout) == without_times(shown.partition("\n")[2])


def test_failing_case_has_the_report_of_the_page(project: pytest.Pytester) -> None:
    path = project.path / "specs" / "briefing.yaml"
    path.write_text(path.read_text("utf-8").replace("weather: {temp: 39.0}}}", "weather: {temp: 39.5}}}"), "utf-8")
    result = CliRunner().invoke(cli, ["test", "specs", "-k", "everything"])
    assert result.exit_code == 1
    (shown,) = blocks("text")
    *expected, omitted = without_times(shown).splitlines()
    assert omitted.strip() == "..."
    assert without_times(result.stdout).splitlines()[: len(expected)] == expected


def test_tests_in_python_pass(project: pytest.Pytester) -> None:
    (options,) = blocks("toml")
    project.makepyprojecttoml(options + 'asyncio_mode = "auto"\nasyncio_default_fixture_loop_scope = "function"\n')
    (test,) = blocks("python")
    project.makepyfile(test_page=f"import httpx\n\n{textwrap.dedent(test)}")
    options_ = ("-p", "no:anabranch", "-p", "anabranch.testing.plugin", "-p", "no:cacheprovider")
    result = project.runpytest_inprocess(*options_, "-v", "test_page.py", "specs")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["specs/briefing.yaml::everything is there PASSED*"])
