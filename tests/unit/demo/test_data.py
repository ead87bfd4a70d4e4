"""The demo's data matches its README."""

import csv
import gzip
import hashlib
import io

import pytest

from demo import flights, weather
from demo.data.prepare import compressed, cut
from demo.service import PORTS
from demo.table import DATA, read

README = (DATA / "README.md").read_text("utf-8")
ROWS = [
    [cell.strip().strip("`") for cell in line.strip("|").split("|")]
    for line in README.splitlines()
    if line.partition(" |")[0].endswith(".csv.gz")
]


def test_readme_lists_exactly_the_existing_files() -> None:
    assert {row[0] for row in ROWS} == {file.name for file in DATA.glob("*.csv.gz")} == {f"{name}.csv.gz" for name in PORTS}


@pytest.mark.parametrize(("name", "count", "sha256", "content_sha256"), ROWS)
def test_file_has_the_digest_and_the_rows_of_the_readme(name: str, count: str, sha256: str, content_sha256: str) -> None:
    file = (DATA / name).read_bytes()
    content = gzip.decompress(file)
    assert hashlib.sha256(file).hexdigest() == sha256
    assert hashlib.sha256(content).hexdigest() == content_sha256
    assert len(list(csv.DictReader(io.StringIO(content.decode("utf-8"), newline="")))) == int(count)


def test_compressed_file_contains_no_time_and_no_name() -> None:
    file = compressed(b"text")
    assert file == compressed(b"text")
    assert file[3:8] == bytes(5)  # flags and mtime of the gzip header (RFC 1952 section 2.3)


def test_cut_keeps_selected_columns_and_empties_missing_values() -> None:
    rows = [{"a": "1", "b": "NA"}, {"a": "2", "b": "x, y"}]
    assert cut(rows, lambda _: True) == (b'a,b\n1,\n2,"x, y"\n', 2)
    assert cut(rows, lambda row: row["a"] == "1") == (b"a,b\n1,\n", 1)


def test_flights_are_typed_and_numbered_in_the_order_of_the_file() -> None:
    rows = flights.load()
    assert [row["id"] for row in rows] == list(range(1, len(rows) + 1))
    assert rows[0] == {
        "id": 1, "date": "2013-01-01", "year": 2013, "month": 1, "day": 1, "dep_time": 517, "sched_dep_time": 515, "dep_delay": 2,
        "arr_time": 830, "sched_arr_time": 819, "arr_delay": 11, "carrier": "UA", "flight": 1545, "tailnum": "N14228", "origin": "EWR",
        "dest": "IAH", "air_time": 227, "distance": 1400, "hour": 5, "minute": 15, "time_hour": "2013-01-01T10:00:00Z", "cancelled": False,
    }  # fmt: skip


def test_the_examples_of_the_readme_match_the_data() -> None:
    rows = flights.load()
    planes = {row["tailnum"] for row in read("planes", {})}
    airports = {row["faa"] for row in read("airports", {})}
    hours = {(row["origin"], row["time_hour"]) for row in weather.load()}
    no_plane = [row["id"] for row in rows if row["tailnum"] and row["tailnum"] not in planes]
    no_airport = [row["id"] for row in rows if row["dest"] not in airports]
    no_tailnum = [row["id"] for row in rows if row["tailnum"] is None]
    no_weather = [row["id"] for row in rows if (row["origin"], row["time_hour"]) not in hours]
    cancelled = [row["id"] for row in rows if row["cancelled"]]
    assert (len(cancelled), len(no_tailnum), len(no_plane), len(no_airport), len(no_weather)) == (521, 155, 4324, 680, 52)
    assert (cancelled[0], no_tailnum[0], no_plane[0], no_airport[:2], no_weather[0]) == (839, 1783, 10, [4, 29], 293)
    assert {row["dest"] for row in rows} - airports == {"BQN", "PSE", "SJU", "STT"}
