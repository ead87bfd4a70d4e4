"""Checks of the repository: folders, links, commands, pins, and that every error is documented."""

import os
import re
import subprocess
import tomllib
from functools import cache

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from anabranch.cli.main import COMMANDS
from anabranch.describe.advice import ADVICE
from anabranch.describe.pages import error_classes
from tests.support.paths import ROOT

FOLDERS = {"app", "tests", "openapi", "demo", "bench", "deploy", "docs", ".ci"}
"""Any other top-level folder needs a record in docs/decisions, and then a place here."""
MADE = {".git", ".venv", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"}
FROM_ELSEWHERE = "app/anabranch/describe/static/"


@cache
def tracked() -> tuple[str, ...]:
    """The files of the repository; in a copy without git, all files except those that tools generate."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        paths = [path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file()]
        return tuple(str(path) for path in paths if not MADE.intersection(path.parts))
    return tuple(name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file())


def texts() -> dict[str, str]:
    """Every tracked text file of ours."""
    found = {}
    for name in tracked():
        content = (ROOT / name).read_bytes()
        if not name.startswith(FROM_ELSEWHERE) and b"\0" not in content[:8192] and not name.endswith(".gz"):
            found[name] = content.decode("utf-8")
    return found


def pages() -> dict[str, str]:
    return {name: text for name, text in texts().items() if name.endswith(".md") and not name.startswith("demo/data/")}


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_top_level_has_no_other_folders() -> None:
    assert {name.split("/")[0] for name in tracked() if "/" in name} <= FOLDERS


def test_no_file_contains_a_path_of_a_developers_machine() -> None:
    homes = "work|root|home|Users|tmp"
    machine_path = re.compile(rf"(?<![\w.}}*])/(?:{homes})/\w|[A-Z]:\\Users")
    assert [f"{name}: {found[0]}" for name, text in texts().items() if (found := machine_path.search(text))] == []


def test_no_file_names_a_package_registry() -> None:
    options = "|".join(["index" + "-url", "trusted" + "-host", "find" + "-links"])
    registry = re.compile(rf"{options}|registry\s*=\s*\W?http|//[\w.-]+(?::\d+)?/(?:simple|artifactory|npm)/", re.IGNORECASE)
    assert [f"{name}: {found[0]}" for name, text in texts().items() if (found := registry.search(text))] == []


def test_every_make_target_mentioned_exists() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    written = {
        f"{name}: make {target}" for name, text in pages().items() for target in re.findall(r"(?:^|`)make ([a-z-]+)\b", text, re.MULTILINE)
    }
    assert written
    assert {place for place in written if place.rsplit(" ", 1)[1] not in targets} == set()


def test_make_help_lists_every_required_target() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    expected = ["run", "test", "check", "fmt", "lint", "types", "imports", "bench", "openapi", "docs", "verify-image", "clean"]
    assert [target for target in expected if not re.search(rf"^  make {target} +\w", listed, re.MULTILINE)] == []


def test_every_command_mentioned_exists() -> None:
    written = {
        f"{name}: anabranch {command}"
        for name, text in pages().items()
        for command in re.findall(r"(?:^|`)anabranch ([a-z][a-z-]*)\b", text, re.MULTILINE)
    }
    assert written
    assert {place for place in written if place.rsplit(" ", 1)[1] not in COMMANDS} == set()


def heading_anchors(page: str) -> set[str]:
    """The anchors that GitHub and others generate for the headings of a page."""
    headings = re.findall(r"^#+ +(.+)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_every_link_between_pages_has_a_target() -> None:
    broken = []
    for name, text in pages().items():
        prose = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", prose):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            file = (ROOT / name).parent / path if path else ROOT / name
            if not file.exists() or (anchor and file.suffix == ".md" and anchor not in heading_anchors(file.read_text("utf-8"))):
                broken.append(f"{name}: {target}")
    assert broken == []


def pins() -> dict[str, str]:
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()]
    return {canonicalize_name(line.split("==")[0]): line for line in lines if line}


def test_constraints_are_plain_pins() -> None:
    assert [line for line in pins().values() if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+]+", line)] == []
    assert not {"pip", "setuptools", "anabranch"} & set(pins())


def test_every_dependency_is_pinned_to_a_version_that_fits() -> None:
    document = project()
    about = document["project"]
    groups = document["dependency-groups"]
    assert isinstance(about, dict)
    assert isinstance(groups, dict)
    lists = [about["dependencies"], *about["optional-dependencies"].values(), *groups.values()]
    wanted = [Requirement(text) for texts_ in lists for text in texts_ if isinstance(text, str)]
    unpinned = [str(one) for one in wanted if canonicalize_name(one.name) not in pins() and canonicalize_name(one.name) != "anabranch"]
    assert unpinned == []
    unfit = [
        str(one)
        for one in wanted
        if (pin := pins().get(canonicalize_name(one.name))) and not one.specifier.contains(pin.split("==")[1], prereleases=True)
    ]
    assert unfit == []


def test_every_error_has_a_page_with_advice() -> None:
    assert [code for code in error_classes() if code not in ADVICE] == []


def test_every_failure_that_a_client_can_see_is_in_the_failure_table() -> None:
    page = (ROOT / "docs" / "failures.md").read_text("utf-8")
    # The roots of the tree, which are never raised, and errors that stop a gateway before it has clients.
    unseen = {"bad_request", "step_failed", "upstream_error", "skipped", "compute_error", "config_error", "cannot_start", "missing_extra"}
    assert [code for code in error_classes() if code not in unseen and f"`{code}`" not in page] == []


def test_ci_runs_the_commands_of_the_readme() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    readme = (ROOT / "README.md").read_text("utf-8")
    assert re.findall(r"^make (\w+)$", script.read_text("utf-8"), re.MULTILINE) == ["test", "check"]
    assert "make test" in readme
    assert "make run" in readme
