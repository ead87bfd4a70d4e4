"""What the command imports. Its start is most of the time of `anabranch check`, and a part of every deployment."""

import json
import subprocess
import sys

import pytest

DOCUMENT = """
version: 1
upstreams: {flights: {url: "http://127.0.0.1:9"}}
endpoints:
  - path: /flights/{id}
    method: GET
    steps:
      flight: {upstream: flights, path: "/flights/{path.id}"}
      crew: {upstream: flights, path: /crew, when: "{flight.cancelled} == false"}
"""
STARTS = """
import json, sys
from contextlib import redirect_stdout, suppress
from anabranch.cli.main import main

def modules_after(*arguments):
    sys.argv[:] = ["anabranch", *arguments]
    with suppress(SystemExit), redirect_stdout(sys.stderr):
        main()
    return sorted(sys.modules)

document = sys.argv[1]
found = {"help": modules_after("--help"), "check": modules_after("check", document)}
import anabranch.cli.run
found["run"] = sorted(sys.modules)
print(json.dumps(found))
"""
Modules = dict[str, set[str]]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Modules:
    """The modules in a process after `anabranch --help`, and after `anabranch check` as well, and after the import of `anabranch run`."""
    document = tmp_path_factory.mktemp("start") / "gateway.yaml"
    document.write_text(DOCUMENT, "utf-8")
    done = subprocess.run([sys.executable, "-c", STARTS, str(document)], capture_output=True, text=True, check=False, timeout=60)
    assert "no problems" in done.stderr, done.stderr
    return {name: set(modules) for name, modules in json.loads(done.stdout).items()}


def test_help_imports_no_command(loaded: Modules) -> None:
    assert {name for name in loaded["help"] if name.startswith("anabranch.")} == {
        "anabranch.cli", "anabranch.cli.lazy", "anabranch.cli.main", "anabranch.server", "anabranch.server.gc_tuning",
    }  # fmt: skip
    assert not {"asyncio", "msgspec", "pydantic", "rich"} & loaded["help"]


def test_check_imports_no_server_and_no_library_that_the_document_does_not_need(loaded: Modules) -> None:
    unneeded = {
        "asyncpg", "distributed", "fastapi", "h2", "httpcore2", "httpx", "joserfc", "opentelemetry", "prometheus_client", "prompt_toolkit", "pyarrow",
        "pydantic_settings", "rich", "starlette", "structlog", "uvicorn", "watchfiles",
    }  # fmt: skip
    assert unneeded & loaded["check"] == set()
    rooms = {".".join(name.split(".")[:2]) for name in loaded["check"] if name.startswith("anabranch.")}
    assert (
        rooms & {"anabranch.edge", "anabranch.main", "anabranch.describe", "anabranch.observe", "anabranch.replay", "anabranch.testing"}
        == set()
    )


def test_check_evaluates_conditions_without_the_command_line_of_their_library(loaded: Modules) -> None:
    assert "cel.cel" in loaded["check"]
    assert "cel" not in loaded["check"]


def test_a_supervisor_of_workers_imports_no_server(loaded: Modules) -> None:
    """It has no use for one, and would keep its memory."""
    assert "anabranch.server.workers" in loaded["run"]
    assert {"anabranch.main", "fastapi", "prometheus_client", "starlette", "uvicorn"} & loaded["run"] == set()
