"""Units are parsed and formatted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.config.units import format_duration, format_ratio, format_size, parse_duration, parse_ratio, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"), [("250us", 0.00025), ("250ms", 0.25), ("1.5s", 1.5), ("2m", 120.0), ("1h", 3600.0), ("1d", 86400.0), (" 1s ", 1.0)]
)
def test_a_duration_has_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("value", ["2", 2, 2.5, True, None, "-1s", "1 s s", "1sec", "", "s", [], "\u0661s", "9" * 400 + "s"])
def test_an_invalid_duration_is_rejected(value: object) -> None:
    with pytest.raises(ValueError, match="must be a duration"):
        parse_duration(value)


@pytest.mark.parametrize(("value", "size"), [(0, 0), (512, 512), ("512", 512), ("64KiB", 65536), ("1.5MiB", 1572864), ("5MB", 5_000_000)])
def test_a_size_is_bytes_or_has_a_unit(value: object, size: int) -> None:
    assert parse_size(value) == size


@pytest.mark.parametrize("value", [-1, 1.5, True, "1 TiB", None, "x", 2**63, "9" * 400 + "GiB"])
def test_an_invalid_size_is_rejected(value: object) -> None:
    with pytest.raises(ValueError, match="must be a size"):
        parse_size(value)


@pytest.mark.parametrize(("value", "ratio"), [("10%", 0.1), (0.5, 0.5), (1, 1.0), (0, 0.0), ("100%", 1.0), ("0.5%", 0.005)])
def test_a_ratio_is_a_percentage_or_a_fraction(value: object, ratio: float) -> None:
    assert parse_ratio(value) == pytest.approx(ratio)


@pytest.mark.parametrize("value", ["101%", 1.1, -0.1, True, "0.5", None])
def test_an_invalid_ratio_is_rejected(value: object) -> None:
    with pytest.raises(ValueError, match="must be a ratio"):
        parse_ratio(value)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.25, "250ms"), (2.0, "2s"), (600.0, "10m"), (0.0, "0s"), (86400.0, "1d"), (0.00025, "250us")]
)
def test_durations_are_formatted_as_people_write_them(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(1, 10**12))
def test_a_formatted_duration_parses_to_the_same_value(microseconds: int) -> None:
    assert parse_duration(format_duration(microseconds / 1e6)) == pytest.approx(microseconds / 1e6)


@given(st.integers(0, 10**15 - 1))
def test_a_formatted_size_parses_to_the_same_value(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.floats(0, 1))
def test_a_formatted_ratio_parses_to_the_same_value(ratio: float) -> None:
    assert parse_ratio(format_ratio(ratio)) == pytest.approx(ratio, abs=1e-9)
