"""One table of the demo's data in memory: typed rows, and equality filters over indexed columns.

Rows are read once and never changed, so they are returned without copying.
"""

import csv
import gzip
import io
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any, Final

JSON = Any
Row = dict[str, JSON]
Parse = Callable[[str], JSON]

DATA: Final = Path(__file__).parent / "data"


def boolean(text: str) -> bool:
    """`true` or `false`. Raises ValueError."""
    if text.lower() not in {"true", "false"}:
        raise ValueError("true or false")
    return text.lower() == "true"


def day(text: str) -> str:
    """A valid date in the form `2013-01-31`. Raises ValueError."""
    return date.fromisoformat(text).isoformat()


def read(name: str, types: Mapping[str, Parse]) -> Iterator[Row]:
    """The rows of `data/NAME.csv.gz`, columns in the file's order. A column that `types` does not name is text; an empty field is None."""
    with gzip.open(DATA / f"{name}.csv.gz", "rb") as file:
        lines = csv.reader(io.StringIO(file.read().decode("utf-8"), newline=""))
    columns = [(column, types.get(column, str)) for column in next(lines)]
    for line in lines:
        yield {column: parse(text) if text else None for (column, parse), text in zip(columns, line, strict=True)}


class Table:
    """Rows that can be filtered by equality. `filters`: for each filterable column, the function that parses its value."""

    def __init__(self, rows: list[Row], filters: Mapping[str, Parse]) -> None:
        self.rows: Final = rows
        self.filters: Final = filters
        self._index: dict[str, defaultdict[JSON, list[Row]]] = {column: defaultdict(list) for column in filters}
        for column, index in self._index.items():
            for row in rows:
                index[row[column]].append(row)

    def find(self, wanted: Mapping[str, JSON]) -> list[Row]:
        """The rows whose columns have the wanted values, in the file's order. Cost: the size of the smallest index entry."""
        if not wanted:
            return self.rows
        candidates = min((self._index[column].get(value, []) for column, value in wanted.items()), key=len)
        return [row for row in candidates if all(row[column] == value for column, value in wanted.items())]
