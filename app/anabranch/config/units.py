"""Durations, sizes, ratios and rates in human-readable form: `250ms`, `10MiB`, `10%`, `100/1m`. Parsed once, at load."""

import re
from typing import Annotated, Any, Final, NamedTuple

from pydantic import AfterValidator, BeforeValidator, PlainValidator, WithJsonSchema

# At most 15 digits on each side, so that no number overflows.
_NUMBER: Final = r"([0-9]{1,15}(?:\.[0-9]{1,15})?)"
_DURATION: Final = re.compile(_NUMBER + r"(us|ms|s|m|h|d)")
_SECONDS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE: Final = re.compile(_NUMBER + r"(B|kB|KB|MB|GB|KiB|MiB|GiB)?")
_BYTES: Final = {None: 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_MOST: Final = 1_000_000_000
_RATIO: Final = re.compile(_NUMBER + r"%")
_PER_PERIOD: Final = re.compile(r"([0-9]{1,10}) ?/ ?([^ ]+)")


def parse_duration(value: Any) -> float:
    """Seconds from `250ms`, `2s`, `1m` (also us, h, d). A number without a unit is rejected. Raises ValueError."""
    if isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        return float(match[1]) * _SECONDS[match[2]]
    raise ValueError("must be a duration with a unit, such as 250ms, 2s or 1m")


def parse_size(value: Any) -> int:
    """Bytes from `64KiB`, `10MiB`, `5MB` or a whole number of bytes. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63:
        return value
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        return int(float(match[1]) * _BYTES[match[2]])
    raise ValueError("must be a size: a number of bytes, or a number with a unit such as 64KiB or 10MiB")


def parse_ratio(value: Any) -> float:
    """A share between 0 and 1, from `10%` or a number between 0 and 1. Raises ValueError."""
    ratio = -1.0
    if isinstance(value, str) and (match := _RATIO.fullmatch(value.strip())):
        ratio = float(match[1]) / 100
    elif isinstance(value, int | float) and not isinstance(value, bool):
        ratio = float(value)
    if 0 <= ratio <= 1:
        return ratio
    raise ValueError("must be a ratio: a percentage such as 10%, or a number between 0 and 1")


class Frequency(NamedTuple):
    """`number` in each `period_s` seconds; both more than zero."""

    number: int
    period_s: float


def parse_frequency(value: Any) -> Frequency:
    """From `100/1m`: a whole number, and the duration in which there may be so many. Raises ValueError."""
    found = _PER_PERIOD.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError("must be a number and the time in which it is allowed, such as 100/1m, 50/1s or 1000/1d")
    if found[2] in _SECONDS:
        raise ValueError(f"the time needs a number too: write {found[1]}/1{found[2]}")
    period_s = parse_duration(found[2])
    if not 0 < int(found[1]) <= _MOST or period_s <= 0:
        raise ValueError(f"both the number and the time must be more than zero, and the number at most {_MOST}")
    return Frequency(int(found[1]), period_s)


def _positive_duration(value: Any) -> float:
    seconds = parse_duration(value)
    if seconds <= 0:
        raise ValueError("must be longer than zero")
    return seconds


def _whole_seconds(value: Any) -> float:
    seconds = parse_duration(value)
    if not seconds.is_integer():
        raise ValueError("must be whole seconds: HTTP counts no parts of them")
    return seconds


_DURATION_SCHEMA: Final = {"type": "string", "pattern": r"^\d+(\.\d+)?(us|ms|s|m|h|d)$", "examples": ["250ms", "2s", "1m"]}
_SIZE_SCHEMA: Final = {
    "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"^\d+(\.\d+)?(B|kB|KB|MB|GB|KiB|MiB|GiB)?$"}],
    "examples": ["64KiB", "10MiB"],
}
_RATIO_SCHEMA: Final = {
    "anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "string", "pattern": r"^\d+(\.\d+)?%$"}],
    "examples": ["10%"],
}

Duration = Annotated[float, BeforeValidator(_positive_duration), WithJsonSchema(_DURATION_SCHEMA)]
"""Seconds; more than zero."""
DurationOrZero = Annotated[float, BeforeValidator(parse_duration), WithJsonSchema(_DURATION_SCHEMA)]
"""Seconds; zero is allowed. The field's docstring gives the meaning of zero."""
WholeSeconds = Annotated[float, BeforeValidator(_whole_seconds), WithJsonSchema(_DURATION_SCHEMA)]
"""The same without parts of a second, for what HTTP counts in seconds."""
Size = Annotated[int, BeforeValidator(parse_size), WithJsonSchema(_SIZE_SCHEMA)]
"""Bytes."""
Ratio = Annotated[float, BeforeValidator(parse_ratio), WithJsonSchema(_RATIO_SCHEMA)]
"""A share between 0 and 1."""
PerPeriod = Annotated[
    Frequency,
    PlainValidator(parse_frequency),
    WithJsonSchema({"type": "string", "pattern": r"^\d{1,10} ?/ ?\d+(\.\d+)?(us|ms|s|m|h|d)$", "examples": ["100/1m", "50/1s", "1000/1d"]}),
]
"""A number of things in a time."""


def _countable(value: int) -> int:
    if value > _MOST:
        raise ValueError(f"must be at most {_MOST}")
    return value


Count = Annotated[int, AfterValidator(_countable)]
"""A number of things: at most a thousand million, so that no arithmetic with it overflows."""


def format_duration(seconds: float) -> str:
    """`seconds` in the largest unit that needs no fraction, such as `250ms`; `parse_duration` reads it back."""
    for unit in ("d", "h", "m", "s", "ms"):
        count = round(seconds / _SECONDS[unit], 9)
        if count >= 1 and count.is_integer():
            return f"{int(count)}{unit}"
    return f"{round(seconds * 1e6):d}us" if seconds else "0s"


def format_size(size_bytes: int) -> str:
    """`size_bytes` in the largest binary unit that needs no fraction, such as `10MiB`; `parse_size` reads it back."""
    for unit in ("GiB", "MiB", "KiB"):
        if size_bytes and size_bytes % _BYTES[unit] == 0:
            return f"{size_bytes // _BYTES[unit]}{unit}"
    return str(size_bytes)


def format_ratio(ratio: float) -> str:
    """`ratio` as a percentage, such as `10%`; `parse_ratio` reads it back."""
    return f"{ratio * 100:.9f}".rstrip("0").rstrip(".") + "%"


def format_frequency(frequency: Frequency) -> str:
    """`frequency` as `parse_frequency` reads it, such as `100/1m`."""
    return f"{frequency.number}/{format_duration(frequency.period_s)}"
