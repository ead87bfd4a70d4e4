"""`anabranch journal`: its output, and its message when there is nothing to show."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from anabranch.cli.journal import journal
from anabranch.journal.record import encode
from tests.support.recorded import NOW, answered, recorded, write_segment

RECORDS = [
    recorded("/x/1", b'{"price":1.00}', [answered("one", "up", "/one", b"1")], at_s=0, query="a=b"),
    recorded("/x/2", b"2", [], at_s=1, endpoint="y", status=503, complete=False, failure="timeout", elapsed_ms=900.0),
    recorded("/x/3", b"3", [], at_s=2, complete=False),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_segment(tmp_path / "j", RECORDS[:2], is_closed=True)
    write_segment(tmp_path / "j", RECORDS[2:], worker="bbbbbbbbbb")
    return tmp_path / "j"


def run(*arguments: str, folder: Path | None = None, code: int = 0) -> tuple[str, str]:
    found = CliRunner().invoke(journal, [*arguments, *(() if folder is None else ("--journal", str(folder)))])
    assert found.exit_code == code, found.output
    return found.stdout, found.stderr


def test_ls_has_a_line_for_each_record_by_time(folder: Path) -> None:
    lines = run("ls", folder=folder)[0].splitlines()
    assert [RECORDS[number].id in line for number, line in enumerate(lines)] == [True] * 3
    assert lines[0].startswith("2026-11-22T12:00:00.000Z")
    assert lines[0].endswith("x  GET /x/1?a=b")
    assert "  timeout  " in lines[1]
    assert "  partial  " in lines[2]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--endpoint", "y"], [1]),
        (["--status", "5xx"], [1]),
        (["--status", "200"], [0, 2]),
        (["--incomplete"], [1, 2]),
        (["--slow", "500ms"], [1]),
        (["--since", "2026-11-22T12:00:01Z", "--until", "2026-11-22T12:00:02"], [1]),
        (["--since", "2026-11-22T13:00:01+01:00"], [1, 2]),
    ],
)
def test_filter_options_select_records(folder: Path, options: list[str], expected: list[int]) -> None:
    lines = run("export", *options, folder=folder)[0].splitlines()
    assert [json.loads(line)["id"] for line in lines] == [RECORDS[number].id for number in expected]


@pytest.mark.parametrize(
    "arguments",
    [("ls",), ("tail",), ("tail", "--json"), ("stats",), ("stats", "--json"), ("export",), ("ls", "--segments"), ("verify",)],
    ids=" ".join,
)
def test_a_command_that_finds_nothing_says_so_and_is_no_success(folder: Path, arguments: tuple[str, ...]) -> None:
    empty = folder.parent / "empty"
    empty.mkdir()
    what = "segments" if {"--segments", "verify"} & {*arguments} else "records"
    assert f"there are no {what} in {empty}\n" in run(*arguments, folder=empty, code=2)[1]
    if what == "records":
        said = run(*arguments, "--endpoint", "none", folder=folder, code=2)[1]
        assert f"there are no records in {folder} that match these options\n" in said
        run(*arguments, "--until", "2020-01-01", folder=folder, code=2)
        run(*arguments, "--endpoint", "none", "--endpoint", RECORDS[0].endpoint, folder=folder)


@pytest.mark.parametrize("command", ["ls", "tail", "stats", "verify", "export"])
def test_a_missing_folder_is_a_usage_error(tmp_path: Path, command: str) -> None:
    assert "there is no journal" in run(command, folder=tmp_path / "none", code=2)[1]
    (tmp_path / "file").write_text("")
    assert "is not a folder" in run(command, folder=tmp_path / "file", code=2)[1]


def test_without_a_folder_the_setting_is_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANABRANCH_JOURNAL_PATH", str(folder))
    assert len(run("ls")[0].splitlines()) == 3
    monkeypatch.delenv("ANABRANCH_JOURNAL_PATH")
    monkeypatch.chdir(folder.parent)
    assert "--journal DIR" in run("ls", code=2)[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--since", "yesterday"], "--since: 'yesterday' is neither"),
        (["--slow", "5"], "--slow: must be a duration with a unit"),
        (["--status", "9999"], "--status: '9999' is neither"),
        (["--status", "²xx"], "is neither"),
    ],
)
def test_invalid_options_are_a_usage_error(folder: Path, options: list[str], said: str) -> None:
    assert said in run("ls", *options, folder=folder, code=2)[1]


def test_show_prints_the_whole_record_and_keeps_the_spelling_of_numbers(folder: Path) -> None:
    out, _ = run("show", RECORDS[0].id, folder=folder)
    assert json.loads(out)["steps"][0]["target"] == "/one"
    assert '"price": 1.00' in out
    assert "there is no record" in run("show", "nothing", folder=folder, code=2)[1]


def test_tail_prints_the_last_records(folder: Path) -> None:
    assert [line.split()[1] for line in run("tail", "-n", "2", folder=folder)[0].splitlines()] == [record.id for record in RECORDS[1:]]
    assert json.loads(run("tail", "-n", "1", "--json", folder=folder)[0])["id"] == RECORDS[2].id


def test_ls_can_list_the_segments(folder: Path) -> None:
    lines = run("ls", "--segments", folder=folder)[0].splitlines()
    assert "2 records until" in lines[0]
    assert lines[1].endswith("open")


def test_stats_are_counted_by_endpoint(folder: Path) -> None:
    out, _ = run("stats", folder=folder)
    assert [line.split()[:2] for line in out.splitlines()[1:3]] == [["x", "2"], ["y", "1"]]
    found = json.loads(run("stats", "--json", folder=folder)[0])
    assert found["y"]["failures"] == {"timeout": 1}
    assert found["x"]["statuses"] == {"200": 2}


def test_verify_finds_damage(folder: Path) -> None:
    assert run("verify", folder=folder)[0] == "3 records in 2 segments: all sound\n"
    plain = next(folder.glob("*.jsonl"))
    content = bytearray(plain.read_bytes())
    content[20] ^= 1
    plain.write_bytes(content)
    closed = next(folder.glob("*.zst"))
    closed.write_bytes(closed.read_bytes()[:-9])
    out, _ = run("verify", folder=folder, code=3)
    assert "1 damaged line" in out
    assert "ends too early" in out
    assert out.endswith("2 segments: 2 damaged\n")


def test_verify_does_not_report_a_line_in_progress_as_damage(folder: Path) -> None:
    with next(folder.glob("*.jsonl")).open("ab") as file:
        file.write(b'{"v":1,')
    out, _ = run("verify", folder=folder)
    assert "is being written" in out


def test_an_export_contains_the_records_unchanged(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.ndjson"
    _, said = run("export", "-o", str(target), folder=folder)
    assert said == "3 records exported\n"
    assert target.read_bytes() == b"".join(map(encode, RECORDS))
    assert "cannot write" in run("export", "-o", str(tmp_path), folder=folder, code=2)[1]


def test_an_export_to_parquet_has_columns(folder: Path, tmp_path: Path) -> None:
    from pyarrow import parquet

    target = tmp_path / "out.parquet"
    run("export", "--format", "parquet", "-o", str(target), folder=folder)
    rows = parquet.read_table(target).to_pylist()
    assert [row["id"] for row in rows] == [record.id for record in RECORDS]
    assert rows[0]["time"] == NOW.astimezone(UTC)
    assert isinstance(rows[0]["time"], datetime)
    assert (rows[0]["body"], rows[1]["failure"], rows[0]["path"]) == ('{"price":1.00}', "timeout", "/x/1")
    assert "needs --output" in run("export", "--format", "parquet", folder=folder, code=2)[1]


def test_a_missing_library_is_reported_with_its_extra(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "anabranch[parquet]" in run("export", "--format", "parquet", "-o", str(tmp_path / "x"), folder=folder, code=2)[1]


def test_following_prints_new_records_and_ends_cleanly_when_interrupted(folder: Path) -> None:
    command = [sys.executable, "-m", "anabranch", "journal", "tail", "-f", "-n", "1", "-j", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert RECORDS[2].id.encode() in process.stdout.readline()
        fresh = recorded("/new", b"1", [], at_s=9)
        with next(folder.glob("*.jsonl")).open("ab") as file:
            file.write(encode(fresh))
        assert fresh.id.encode() in process.stdout.readline()
        process.send_signal(2)
        _, said = process.communicate(timeout=20)
        assert (process.returncode, said) == (0, b"")


def test_a_closed_output_pipe_is_not_a_failure(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    write_segment(folder, [recorded("/x", b"1", [], at_s=number) for number in range(5000)])
    command = [sys.executable, "-m", "anabranch", "journal", "export", "-j", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ}) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(20) == 0
