"""The Dockerfile: passes hadolint, and its last stages provide what docs/operations.md promises."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from anabranch.settings import Settings
from tests.support.paths import ROOT

TOOLS = Path(sys.executable).parent
TEXT = (ROOT / "Dockerfile").read_text("utf-8")


def stages() -> dict[str, list[str]]:
    """The instructions of each stage by its name, with continued lines joined."""
    found: dict[str, list[str]] = {}
    for line in re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE)).splitlines():
        if begun := re.match(r"FROM (\S+) AS (\w+)$", line):
            found[begun[2]] = [line]
        elif line and found:
            found[list(found)[-1]].append(line)
    return found


STAGES = stages()


def arguments(stage: str, name: str) -> list[str]:
    return [line.removeprefix(name).strip() for line in STAGES[stage] if line.startswith(f"{name} ")]


@pytest.fixture
def answering() -> Iterator[Callable[[int], int]]:
    """Starts a server that answers /livez with a status and everything else with 404. Returns its port."""
    servers = []

    def start(status: int) -> int:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status if self.path == "/livez" else 404)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return int(server.server_address[1])

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_dockerfile_passes_hadolint() -> None:
    done = subprocess.run([TOOLS / "hadolint", "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_last_stage_is_the_gateway_without_the_demo() -> None:
    assert list(STAGES) == ["build", "runtime", "demo", "gateway"]
    assert "ARG BASE=python:3.13-slim" in TEXT
    assert [arguments(stage, "FROM")[0].split()[0] for stage in STAGES] == ["${BASE}", "${BASE}", "runtime", "runtime"]
    assert arguments("gateway", "COPY") == []


@pytest.mark.parametrize("stage", ["runtime", "demo", "gateway"])
def test_final_image_copies_only_files_built_in_earlier_stages(stage: str) -> None:
    assert arguments(stage, "RUN") == arguments(stage, "ADD") == []
    assert stage == "demo" or [line for line in arguments(stage, "COPY") if not line.startswith("--from=build ")] == []


def test_packages_are_pinned_by_the_constraints() -> None:
    installs = [command for line in arguments("build", "RUN") for command in line.split("&&") if " pip install " in command]
    assert installs
    assert [command for command in installs if "-c constraints.txt" not in command] == []


def test_user_is_numeric_and_not_root() -> None:
    assert [re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user) is not None for user in arguments("runtime", "USER")] == [True]
    assert all(arguments(stage, "USER") == [] for stage in ("demo", "gateway"))


def test_process_is_started_without_a_shell_and_receives_signals() -> None:
    assert arguments("runtime", "CMD") == ['["anabranch", "run"]']
    assert arguments("runtime", "STOPSIGNAL") == ["SIGTERM"]


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_health_check_requests_livez_without_other_programs(status: int, code: int, answering: Callable[[int], int]) -> None:
    command = arguments("runtime", "HEALTHCHECK")[0].split("CMD ", 1)[1]
    program, *rest = json.loads(command)
    assert program == "python"
    port = answering(status)
    done = subprocess.run([sys.executable, *rest], env=os.environ | {"ANABRANCH_PORT": str(port)}, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (code, b"")


def test_health_check_fails_when_nothing_listens() -> None:
    _, *rest = json.loads(arguments("runtime", "HEALTHCHECK")[0].split("CMD ", 1)[1])
    assert subprocess.run([sys.executable, *rest], env=os.environ | {"ANABRANCH_PORT": "1"}, capture_output=True, check=False).returncode


def test_build_context_contains_only_what_is_needed() -> None:
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert ignored[0] == "*"
    copied = {path for line in re.findall(r"^COPY (?!--from)(.+)$", TEXT, re.MULTILINE) for path in line.split()[:-1]}
    assert {f"!{path}" for path in copied} == {line for line in ignored if line.startswith("!")}


def test_verify_image_reports_that_it_skipped_when_a_tool_is_missing() -> None:
    script = ROOT / "deploy" / "verify-image"
    assert os.access(script, os.X_OK)
    done = subprocess.run([sys.executable, script], env={"PATH": ""}, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("verify-image: SKIPPED, nothing was verified; missing: buildah, runc, debootstrap")


def test_every_setting_that_the_image_sets_exists() -> None:
    names = set(re.findall(r"ANABRANCH_(\w+)=", TEXT))
    assert names
    assert {name.lower() for name in names} <= Settings.model_fields.keys()
