"""The code that a process runs: its digest, and what is said when a file has changed since it was imported."""

import sys
from pathlib import Path

import pytest

from anabranch.document.compile import compile_file
from anabranch.document.service import Hooks
from anabranch.document.services import Services
from anabranch.document.warnings import warnings_of
from anabranch.settings import Settings

DOCUMENT = 'version: 1\nendpoints: [{path: /a, steps: {s: {compute: "PACKAGE.hooks:f"}}}]\n'


@pytest.fixture
def project(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose package nobody else has imported."""
    package = f"code_of_{request.node.name.removeprefix('test_')[:40]}"
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("", "utf-8")
    (tmp_path / package / "hooks.py").write_text("from .prices import price\n\ndef f() -> int:\n    return price\n", "utf-8")
    (tmp_path / package / "prices.py").write_text("price = 1\n", "utf-8")
    (tmp_path / "gateway.yaml").write_text(DOCUMENT.replace("PACKAGE", package), "utf-8")
    return tmp_path


def services(project: Path) -> Services:
    path = project / "gateway.yaml"
    return Services(path, compile_file(path), Settings(document=path), hooks=Hooks(), hide=lambda _: lambda: None)


def test_digest_follows_every_file_that_was_imported(project: Path) -> None:
    made = services(project)
    assert len(made.code.digest) == 64
    assert [sample.labels for sample in made.code.samples()] == [(made.code.digest[:12],)]
    (prices,) = project.glob("*/prices.py")
    prices.write_text("price = 2\n", "utf-8")
    assert services(project).code.digest != made.code.digest


def test_changed_file_is_told_with_every_reload(project: Path) -> None:
    made = services(project)
    assert made.again().warnings == ()
    (prices,) = project.glob("*/prices.py")
    prices.write_text("price = 2\n", "utf-8")
    (warning,) = made.again().warnings
    assert (warning.file, warning.is_warning) == (str(prices), True)
    assert "still runs the old code with the new document" in warning.message
    prices.unlink()
    assert len(made.again().warnings) == 1
    prices.write_text("price = 1\n", "utf-8")
    assert made.again().warnings == ()


def test_document_without_code_has_no_digest(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text("version: 1\n", "utf-8")
    made = services(tmp_path)
    assert made.code.digest == ""
    assert list(made.code.samples()) == []


RECORDED = "version: 1\nupstreams: {a: {url: http://a}}\nendpoints: [{path: /a, journal: true, steps: {s: {upstream: a, path: /}}}]\n"


@pytest.mark.parametrize(
    ("more", "settings", "is_told"),
    [
        ("", {}, True),
        ("journal: {keep_age: 1d}\n", {}, False),
        ("journal: {keep_size: 1GiB}\n", {}, False),
        ("", {"journal_keep_size": "640MiB"}, False),
        ("", {"from_journal": "elsewhere"}, False),
    ],
)
def test_journal_that_nothing_bounds_is_told_at_the_start(tmp_path: Path, more: str, settings: dict[str, str], *, is_told: bool) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(RECORDED + more, "utf-8")
    given = Settings(document=path, **settings)  # type: ignore[arg-type]
    assert ["nothing bounds the journal" in warning.message for warning in warnings_of(compile_file(path), given)] == [True] * is_told


@pytest.mark.parametrize(
    ("of_document", "expected"), [("", 640 << 20), ("journal: {keep_size: 1GiB}\n", 640 << 20), ("journal: {keep_size: 64MiB}\n", 64 << 20)]
)
def test_disk_bounds_the_journal_of_every_document(tmp_path: Path, of_document: str, expected: int) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(RECORDED + of_document, "utf-8")
    given = Settings(document=path, journal_keep_size="640MiB")
    journal = Services(path, compile_file(path), given, hooks=Hooks(), hide=lambda _: lambda: None).first.journal
    assert journal is not None
    assert journal.config.keep_size == expected
