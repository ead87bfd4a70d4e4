"""Which records people ask for, and whether these are found."""

from datetime import UTC, datetime, timedelta

import pytest

from anabranch.journal.filter import ASKED, EVERYTHING, Filter, FilterError, read_filter
from anabranch.journal.record import Head, RequestHead

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


def head(**fields: object) -> Head:
    request = RequestHead(id="r-1", method="GET", path="/users/7/orders", trace="4bf92f3577b34da6a3ce929d0e0e4736")
    return Head(
        **{
            "v": 1, "id": "1", "time": NOW, "endpoint": "orders", "plan": "p", "status": 404, "complete": True, "elapsed_ms": 5.0,
            "request": request, **fields,
        }  # type: ignore[arg-type]
    )  # fmt: skip


def ask(**asked: list[str]) -> Filter:
    return read_filter(asked, now=NOW)


def test_nothing_asked_is_everything() -> None:
    assert ask() == EVERYTHING
    assert ask(endpoint=[]) == EVERYTHING


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("endpoint", ["users", "orders"]),
        ("since", ["1h"]),
        ("since", ["2026-11-28T11:59Z"]),
        ("since", ["2026-11-28T12:00"]),
        ("until", ["2026-11-28T13:00+00:30"]),
        ("status", ["404"]),
        ("status", ["200", "4xx"]),
        ("status", ["4XX"]),
        ("incomplete", ["false"]),
        ("slow", ["5ms"]),
        ("request", ["r-1"]),
        ("trace", ["4BF92F3577B34DA6A3CE929D0E0E4736"]),
        ("path", ["/users/7/orders"]),
        ("path", ["/none", "/users/*"]),
    ],
)
def test_record_is_found(name: str, texts: list[str]) -> None:
    assert ask(**{name: texts}).matches(head())


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("endpoint", ["users"]),
        ("since", ["2026-11-28T12:01Z"]),
        ("until", ["0s"]),
        ("status", ["200"]),
        ("status", ["5xx"]),
        ("incomplete", ["true"]),
        ("slow", ["6ms"]),
        ("request", ["r-2"]),
        ("trace", ["4bf92f3577b34da6a3ce929d0e0e4737"]),
        ("path", ["/users/7"]),
        ("path", ["/orders/*"]),
    ],
)
def test_record_is_passed_over(name: str, texts: list[str]) -> None:
    assert not ask(**{name: texts}).matches(head())


@pytest.mark.parametrize(
    ("name", "texts", "message"),
    [
        ("status", ["5"], "'5' is neither a status such as 404 nor a class such as 5xx"),
        ("status", ["404xx"], "'404xx' is neither a status such as 404 nor a class such as 5xx"),
        ("status", ["²00"], "'²00' is neither a status such as 404 nor a class such as 5xx"),
        ("since", ["yesterday"], "'yesterday' is neither a duration such as 1h nor a time such as 2026-11-22T16:00Z"),
        ("since", ["9999999999d"], "'9999999999d' is neither a duration such as 1h nor a time such as 2026-11-22T16:00Z"),
        ("since", ["1h", "2h"], "give it once"),
        ("slow", ["5"], "must be a duration with a unit, such as 250ms, 2s or 1m"),
        ("incomplete", ["yes"], "'yes' is neither true nor false"),
        ("endpoint", [""], "it must not be empty"),
        ("path", ["users"], "'users' must start with /"),
        ("statsu", ["404"], "did you mean `status`?"),
        ("colour", ["red"], f"there are only {', '.join(ASKED)}"),
    ],
)
def test_what_is_asked_wrongly_is_named(name: str, texts: list[str], message: str) -> None:
    with pytest.raises(FilterError) as raised:
        ask(**{name: texts})
    assert (raised.value.name, str(raised.value)) == (name, message)


def test_several_conditions_hold_together() -> None:
    where = ask(endpoint=["orders"], status=["4xx"], since=["1h"])
    assert where.matches(head())
    assert not where.matches(head(time=NOW - timedelta(hours=2)))
    assert not where.matches(head(status=500))
