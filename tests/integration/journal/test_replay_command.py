"""The command `anabranch replay`: its output and exit codes."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from anabranch.cli.main import cli
from tests.support.recorded import NOW, answered, recorded, write_segment

DOCUMENT = """
version: 1
upstreams: {a: {url: "http://127.0.0.1:1"}, b: {url: "http://127.0.0.1:2"}}
endpoints:
  - path: /x/{id}
    name: x
    steps:
      one: {upstream: a, path: "/one/{path.id}"}
      two: {upstream: b, path: /two, query: {of: "{one.n}"}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    records = [
        recorded(
            f"/x/{number}",
            b'{"one":{"n":1,"t":"x"},"two":{"m":2.0}}',
            [answered("one", "a", f"/one/{number}", b'{"n":1,"t":"x"}'), answered("two", "b", "/two?of=1", b'{"m":2.0}')],
            at_s=number,
        )
        for number in range(40)
    ]
    write_segment(tmp_path / "journal", records[:20], is_closed=True)
    write_segment(tmp_path / "journal", records[20:], sequence=2)
    (tmp_path / "same.yaml").write_text(DOCUMENT)
    (tmp_path / "other.yaml").write_text(DOCUMENT.replace('path.id}"}', 'path.id}", pick: [n]}'))
    return tmp_path


def replay(folder: Path, document: str, *options: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, ["replay", "--config", str(folder / document), "--journal", str(folder / "journal"), *options])
    return result.exit_code, result.stdout, result.stderr


def test_an_unchanged_document_is_the_same(folder: Path) -> None:
    assert replay(folder, "same.yaml") == (0, "x: 40 records, all the same\nno difference in 40 records\n", "")


def test_a_change_names_endpoint_and_field_and_exits_with_one(folder: Path) -> None:
    code, shown, _ = replay(folder, "other.yaml")
    assert code == 1
    assert "x: 40 records, 40 different" in shown
    assert "one.t  40 records, such as" in shown


def test_json_report_has_the_same_content(folder: Path) -> None:
    code, shown, _ = replay(folder, "other.yaml", "--format", "json", "--since", NOW.replace(second=30).isoformat())
    report = json.loads(shown)
    assert (code, report["same"]) == (1, False)
    assert report["endpoints"]["x"]["replayed"] == 10
    assert report["endpoints"]["x"]["fields"]["one.t"]["removed"]["records"] == 10


def test_ignored_paths_are_not_reported(folder: Path) -> None:
    assert replay(folder, "other.yaml", "--ignore", "one.t")[0] == 0


def test_an_endpoint_without_records_is_named(folder: Path) -> None:
    (folder / "more.yaml").write_text(DOCUMENT + "  - {path: /y, name: y, steps: {one: {upstream: a, path: /one}}}\n")
    assert "no records for: y\n" in replay(folder, "more.yaml")[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--since", "yesterday"], "--since: 'yesterday' is neither a duration"),
        (["--ignore", "a..b"], "--ignore: 'a..b' is not a path"),
        (["--journal", "nowhere"], "the journal nowhere cannot be read"),
    ],
)
def test_a_usage_error_exits_with_two(folder: Path, options: list[str], message: str) -> None:
    code, _, said = replay(folder, "same.yaml", *options)
    assert code == 2
    assert message in said


@pytest.mark.parametrize(
    ("options", "hint"),
    [(["--endpoint", "nope"], ""), (["--endpoint", "X"], "did you mean `x`?"), (["--until", "2020-01-01"], ""), (["--status", "599"], "")],
)
def test_nothing_to_replay_exits_with_two(folder: Path, options: list[str], hint: str) -> None:
    code, _, said = replay(folder, "same.yaml", *options)
    assert code == 2
    assert "nothing was replayed: no record in" in said
    assert hint in said


def test_a_bad_document_exits_with_three(folder: Path) -> None:
    (folder / "bad.yaml").write_text("version: 2\n")
    code, _, said = replay(folder, "bad.yaml")
    assert code == 3
    assert "bad.yaml:1" in said
