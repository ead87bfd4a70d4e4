"""deploy/template: an image with code of one's own. Its Dockerfile's own instructions are carried out in a plain environment.

`deploy/verify-image` builds and runs the image itself, where the tools for that exist.
"""

import asyncio
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from sysconfig import get_paths

import pytest

from anabranch.testing.scripted.upstream import ScriptedUpstream
from tests.integration.test_foreign_project import build, get, run
from tests.support.command import running_command
from tests.support.dockerfile import instructions
from tests.support.paths import ROOT

TEMPLATE = ROOT / "deploy" / "template"
IMAGE_ENVIRONMENT = "/opt/anabranch"


@dataclass
class Image:
    """What an image would hold, below `root`. `variables`, `user`, `folder`: as the instructions set them; paths are those inside."""

    root: Path
    variables: dict[str, str] = field(default_factory=dict)
    user: str = "10001:10001"
    folder: str = "/"

    def outside(self, path: str) -> Path:
        return self.root / os.path.join(self.folder, path).lstrip("/")  # noqa: PTH118 - joins absolute paths too

    def environment(self) -> dict[str, str]:
        """Variables with a path inside become those with the path outside."""
        values = {name: value.replace("/opt/", f"{self.root}/opt/") for name, value in self.variables.items()}
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("ANABRANCH_", "PYTHON", "PIP_"))}
        return {**clean, **values, "PATH": f"{self.root}{IMAGE_ENVIRONMENT}/bin:/usr/bin:/bin"}

    def carry_out(self, file: Path, context: Path) -> None:
        for name, arguments in instructions(file):
            if name in {"ARG", "FROM"}:
                continue
            if name == "USER":
                self.user = arguments
            elif name == "WORKDIR":
                self.folder = arguments
                self.outside(".").mkdir(parents=True, exist_ok=True)
            elif name == "ENV":
                self.variables |= dict(pair.split("=", 1) for pair in arguments.split())
            elif name == "COPY":
                source, target = arguments.split()
                copied = context / source
                if copied.is_dir():
                    shutil.copytree(copied, self.outside(target), ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
                else:
                    shutil.copy2(copied, self.outside(target))
            elif name == "RUN":
                assert self.user == "0:0"
                done = subprocess.run(
                    ["/bin/sh", "-ec", arguments],
                    cwd=self.outside("."),
                    env=self.environment(),
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
            else:
                pytest.fail(f"the test does not know {name}")


def write_wheel(folder: Path, requirement: str) -> None:
    """A stand-in for the template's requirement, so that no index is needed."""
    name, version = requirement.split("==")
    plain = name.replace("-", "_")
    info = f"{plain}-{version}.dist-info"
    files = {
        "slugify/__init__.py": "def slugify(text):\n    return text.lower().replace(' ', '-')\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{plain}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(path, text)


@pytest.fixture
def image(tmp_path: Path) -> Image:
    """As the image of the gateway: its environment with pip, and its variables."""
    inside = tmp_path / "image" / IMAGE_ENVIRONMENT.lstrip("/")
    venv.create(inside, symlinks=True)
    (packages,) = (inside / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(get_paths()["purelib"], "utf-8")
    # The pip of our environment: to install another one takes longer than the rest of this test.
    (inside / "bin" / "pip").write_text(
        f"#!{inside}/bin/python\nfrom pip._internal.cli.main import main\nraise SystemExit(main())\n", "utf-8"
    )
    (inside / "bin" / "pip").chmod(0o755)
    made = tmp_path / "wheels"
    made.mkdir()
    run(str(inside / "bin" / "pip"), "install", "--quiet", "--no-deps", "--no-index", "--no-compile", str(build(ROOT, tmp_path / "ours")))
    shutil.copy(ROOT / "constraints.txt", inside / "constraints.txt")
    (requirement,) = [line for line in (TEMPLATE / "requirements.txt").read_text("utf-8").splitlines() if line and not line.startswith("#")]
    write_wheel(made, requirement)
    runtime = [one for one in instructions(ROOT / "Dockerfile") if one.name == "ENV" and "PIP_CONSTRAINT" in one.arguments]
    variables = dict(pair.split("=", 1) for pair in runtime[0].arguments.split())
    return Image(tmp_path / "image", {**variables, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(made)})


async def test_steps_of_the_template_make_a_gateway_that_serves_its_own_code(
    image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And they fail where the document or its code is not usable."""
    context = tmp_path / "context"
    shutil.copytree(TEMPLATE, context)
    (context / "orders" / "hooks.py").write_text("def link() -> None: ...\n", "utf-8")
    with pytest.raises(AssertionError, match="has no links"):
        image.carry_out(TEMPLATE / "Dockerfile", context)
    image.carry_out(TEMPLATE / "Dockerfile", TEMPLATE)
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", image.user)
    assert list((image.root / "opt" / "bytecode").rglob("hooks.cpython-*.pyc")), "a read-only container cannot write bytecode"
    document = Path(image.environment()["ANABRANCH_DOCUMENT"])
    assert document == image.outside(".")
    packages = image.root / IMAGE_ENVIRONMENT.lstrip("/")
    assert list(packages.rglob("slugify/__init__.py")), "installed where the gateway looks"
    for name in [name for name in os.environ if name.startswith("PYTHON")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "executable", str(packages / "bin" / "python"))
    monkeypatch.setattr("tests.support.command.ROOT", image.outside("."))
    async with (
        ScriptedUpstream({"*": {"json": {"id": 7, "title": "Two Cups"}}}) as orders,
        running_command(document, ORDERS_URL=orders.url) as gateway,
    ):
        assert await asyncio.to_thread(get, f"{gateway.url}/orders/7") == {
            "order": {"id": 7, "title": "Two Cups"},
            "links": {"page": "/orders/7-two-cups"},
        }
        assert await asyncio.to_thread(get, f"{gateway.url}/shop") == {"name": "orders"}


def test_context_of_the_template_has_what_is_copied_and_no_more() -> None:
    ignored = (TEMPLATE / ".dockerignore").read_text("utf-8").splitlines()
    copied = {arguments.split()[0] for name, arguments in instructions(TEMPLATE / "Dockerfile") if name == "COPY"}
    assert ignored[0] == "*"
    assert {f"!{path}" for path in copied} == {line for line in ignored if line.startswith("!")}


def test_bytecode_of_the_image_is_compared_with_its_sources() -> None:
    compiling = [one.arguments for one in instructions(ROOT / "Dockerfile") if one.name == "RUN" and "compileall" in one.arguments]
    assert compiling
    assert all(text.count("compileall") == text.count("--invalidation-mode timestamp") for text in compiling)


def test_image_has_pip_in_the_environment_of_the_gateway() -> None:
    assert all("uninstall" not in one.arguments for one in instructions(ROOT / "Dockerfile"))
