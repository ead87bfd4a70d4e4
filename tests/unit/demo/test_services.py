"""The five services, called as by an HTTP client."""

from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import httpx
import pytest

from demo import airlines, airports, flights, planes, weather
from demo.service import MAX_BODY_BYTES, Service

MODULES: dict[str, ModuleType] = {"flights": flights, "airlines": airlines, "airports": airports, "planes": planes, "weather": weather}


@cache
def service(name: str) -> Service:
    built: Service = MODULES[name].build()
    return built


async def ask(name: str, method: str, path: str, **options: Any) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(service(name)), base_url="http://demo") as client:
        return await client.request(method, path, **options)


async def get(name: str, path: str, **query: Any) -> Any:
    response = await ask(name, "GET", path, params=query)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    return response.json()


@pytest.mark.parametrize(("name", "rows"), [("flights", 27004), ("airlines", 16), ("airports", 1940), ("planes", 3322), ("weather", 2226)])
async def test_health_reports_the_number_of_rows(name: str, rows: int) -> None:
    assert await get(name, "/health") == {"status": "ok", "service": name, "rows": rows}


@pytest.mark.parametrize(
    ("name", "path", "detail"),
    [
        ("flights", "/flights/0", "there is no flight 0"),
        ("flights", "/flights/27005", "there is no flight 27005"),
        ("flights", "/flights/" + "9" * 5000, "there is no flight " + "9" * 5000),
        ("flights", "/flights/one", "there is no flight one"),
        ("flights", "/flights/", "flights has no such path"),
        ("airlines", "/airlines/ZZ", "there is no airline ZZ"),
        ("airports", "/airports/SJU", "there is no airport SJU"),
        ("planes", "/planes/N3ALAA", "there is no plane N3ALAA in the registry"),
        ("planes", "/planes/a%2Fb", "there is no plane a/b in the registry"),
        ("weather", "/weather?origin=JFK&at=2013-01-01T17:00:00Z", "there is no observation of JFK at 2013-01-01T17:00:00Z"),
        ("weather", "/elsewhere", "weather has no such path"),
    ],
)
async def test_unknown_resource_is_a_404_in_json(name: str, path: str, detail: str) -> None:
    response = await ask(name, "GET", path)
    assert (response.status_code, response.json()) == (404, {"status": 404, "detail": detail})


async def test_flight_keeps_nulls_and_types() -> None:
    cancelled = await get("flights", "/flights/839")
    assert cancelled["cancelled"] is True
    assert cancelled["dep_time"] is None
    assert cancelled["sched_dep_time"] == 1630
    assert (await get("flights", "/flights/1783"))["tailnum"] is None


async def test_head_is_answered_like_get() -> None:
    response = await ask("flights", "HEAD", "/flights/1")
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("query", "matches"),
    [
        ({"carrier": "B6"}, lambda row: row["carrier"] == "B6"),
        ({"origin": "JFK", "dest": "LAX"}, lambda row: (row["origin"], row["dest"]) == ("JFK", "LAX")),
        ({"date": "2013-01-15", "cancelled": "true"}, lambda row: row["day"] == 15 and row["dep_time"] is None),
        ({"tailnum": "N14228"}, lambda row: row["tailnum"] == "N14228"),
        ({"carrier": "UA", "flight": "1545"}, lambda row: (row["carrier"], row["flight"]) == ("UA", 1545)),
        ({"carrier": ""}, lambda _: True),
        ({"carrier": "ZZ"}, lambda _: False),
    ],
)
async def test_flights_are_filtered_and_counted(query: dict[str, str], matches: Callable[[dict[str, Any]], bool]) -> None:
    expected = [row for row in flights.load() if matches(row)]
    answer = await get("flights", "/flights", limit=1000, **query)
    assert answer["total"] == len(expected)
    assert answer["flights"] == expected[:1000]


async def test_search_by_post_answers_like_get() -> None:
    wanted = {"origin": "LGA", "date": "2013-01-31", "carrier": "UA", "cancelled": False, "limit": 3}
    posted = await ask("flights", "POST", "/flights/search", json={**wanted, "dest": None})
    assert posted.status_code == 200
    assert posted.json() == await get("flights", "/flights", **{**wanted, "cancelled": "false"})
    assert len(posted.json()["flights"]) == 3


async def test_limit_defaults_to_twenty_and_may_be_zero() -> None:
    assert len((await get("flights", "/flights"))["flights"]) == 20
    assert await get("flights", "/flights", limit=0) == {"flights": [], "total": 27004}


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("carier=B6", "unknown: carier; known: carrier, origin, dest, tailnum, flight, date, cancelled, limit"),
        ("limit=1001", "limit must be between 0 and 1000"),
        ("limit=-1", "limit must be between 0 and 1000"),
        ("limit=many", "limit cannot be 'many'"),
        ("date=2013-02-30", "date cannot be '2013-02-30'"),
        ("flight=x", "flight cannot be 'x'"),
        ("cancelled=perhaps", "cancelled cannot be 'perhaps'"),
    ],
)
async def test_invalid_filters_are_rejected(query: str, detail: str) -> None:
    response = await ask("flights", "GET", f"/flights?{query}")
    assert (response.status_code, response.json()["detail"]) == (400, detail)


@pytest.mark.parametrize(
    ("content", "status", "detail"),
    [
        (b"{", 400, "the body is not JSON"),
        (b"", 400, "the body is not JSON"),
        (b"[]", 400, "the body must be a JSON object"),
        (b'{"carrier": ["B6"]}', 400, "carrier cannot be an object or an array"),
        (b'{"flight": 1.5}', 400, "flight cannot be 1.5"),
        (b" " * (MAX_BODY_BYTES + 1), 413, f"the body must have at most {MAX_BODY_BYTES} bytes"),
    ],
)
async def test_invalid_bodies_are_rejected(content: bytes, status: int, detail: str) -> None:
    response = await ask("flights", "POST", "/flights/search", content=content)
    assert (response.status_code, response.json()) == (status, {"status": status, "detail": detail})


async def test_wrong_method_names_the_allowed_one() -> None:
    response = await ask("flights", "DELETE", "/flights")
    assert (response.status_code, response.headers["allow"]) == (405, "GET")


async def test_summary_counts_and_averages() -> None:
    rows = [row for row in flights.load() if row["carrier"] == "HA"]
    delays = [row["dep_delay"] for row in rows if row["dep_delay"] is not None]
    summary = await get("flights", "/flights/summary", carrier="HA")
    assert summary["flights"] == len(rows) == 31
    assert summary["cancelled"] == len(rows) - len(delays)
    assert summary["mean_dep_delay"] == round(sum(delays) / len(delays), 1)
    assert summary["on_time_share"] == round(sum(delay < 15 for delay in delays) / len(delays), 3)


async def test_summary_of_no_flights_has_no_averages() -> None:
    assert await get("flights", "/flights/summary", carrier="ZZ") == {
        "flights": 0,
        "cancelled": 0,
        "mean_dep_delay": None,
        "mean_arr_delay": None,
        "on_time_share": None,
    }


async def test_airlines_are_found_by_code_and_listed() -> None:
    assert await get("airlines", "/airlines/B6") == {"carrier": "B6", "name": "JetBlue Airways"}
    listed = await get("airlines", "/airlines")
    assert (listed["total"], len(listed["airlines"])) == (16, 16)


async def test_airlines_and_planes_are_found_by_lists_of_keys_without_the_unknown_ones() -> None:
    answer = await get("airlines", "/airlines", codes="UA,ZZ,B6,UA")
    assert ([airline["carrier"] for airline in answer["airlines"]], answer["total"]) == (["UA", "B6"], 2)
    answer = await get("planes", "/planes", tailnums="N24211,N3ALAA,N14228")
    assert [plane["tailnum"] for plane in answer["planes"]] == ["N24211", "N14228"]


async def test_an_empty_list_of_keys_finds_nothing() -> None:
    assert await get("airlines", "/airlines", codes="") == {"airlines": [], "total": 0}


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ({"tailnums": "N14228", "limit": 1, "engines": 2}, "tailnums cannot be combined with engines, limit"),
        ({"tailnums": ",".join(map(str, range(1001)))}, "tailnums can list at most 1000"),
    ],
)
async def test_a_list_of_keys_is_bounded_and_stands_alone(query: dict[str, Any], detail: str) -> None:
    response = await ask("planes", "GET", "/planes", params=query)
    assert (response.status_code, response.json()["detail"]) == (400, detail)


async def test_page_of_an_airport_lists_the_nearest_others() -> None:
    response = await ask("airports", "GET", "/airports/JFK/page")
    assert (response.status_code, response.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert response.text.count('<tr class="airport">') == 5
    assert 'Laguardia Airport</a></td><td class="distance">11 miles</td>' in response.text
    assert "John F Kennedy International Airport</a>" not in response.text


async def test_every_airport_has_a_page() -> None:
    listed = await get("airports", "/airports", limit=1000)
    for airport in listed["airports"][::100]:
        assert (await ask("airports", "GET", f"/airports/{airport['faa']}/page")).status_code == 200
    assert (await ask("airports", "GET", "/airports/SJU/page")).json() == {"status": 404, "detail": "there is no airport SJU"}


async def test_numeric_fields_of_an_airport_are_numbers() -> None:
    assert await get("airports", "/airports/JFK") == {
        "faa": "JFK", "name": "John F Kennedy International Airport", "lat": 40.639928, "lon": -73.778692, "alt": 13, "tz": -5, "dst": "A",
        "tzone": "America/New_York",
    }  # fmt: skip


async def test_airports_are_filtered_by_time_zone() -> None:
    answer = await get("airports", "/airports", tzone="Pacific/Honolulu", limit=2)
    assert (answer["total"], len(answer["airports"])) == (20, 2)


async def test_lookup_returns_airports_in_request_order_and_the_unknown_codes() -> None:
    answer = (await ask("airports", "POST", "/airports/lookup", json={"codes": ["LGA", "SJU", "EWR"]})).json()
    assert [airport["faa"] for airport in answer["airports"]] == ["LGA", "EWR"]
    assert answer["unknown"] == ["SJU"]


@pytest.mark.parametrize("asked", [{}, {"codes": "JFK"}, {"codes": [1]}, {"codes": ["JFK"] * 1001}])
async def test_lookup_rejects_a_body_that_is_not_a_list_of_codes(asked: dict[str, Any]) -> None:
    response = await ask("airports", "POST", "/airports/lookup", json=asked)
    assert (response.status_code, response.json()["detail"]) == (400, "codes must be an array of at most 1000 strings")


async def test_planes_are_found_by_tail_number_and_filtered() -> None:
    plane = await get("planes", "/planes/N14228")
    assert (plane["manufacturer"], plane["model"], plane["year"], plane["speed"]) == ("BOEING", "737-824", 1999, None)
    answer = await get("planes", "/planes", manufacturer="BOEING", model="737-824", limit=0)
    assert answer == {"planes": [], "total": 122}


@pytest.mark.parametrize("at", ["2013-01-01T10:00:00Z", "2013-01-01T10:59:59Z", "2013-01-01T05:15:00-05:00", "2013-01-01T10:00:00"])
async def test_weather_is_that_of_the_hour_containing_the_instant(at: str) -> None:
    observation = await get("weather", "/weather", origin="EWR", at=at)
    assert observation["time_hour"] == "2013-01-01T10:00:00Z"
    assert observation["wind_speed"] == 12.658579999999999
    assert observation["wind_gust"] is None
    assert (observation["date"], observation["hour"], observation["temp"]) == ("2013-01-01", 5, 39.02)


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("/weather?origin=EWR", "origin and at are required, such as ?origin=EWR&at=2013-01-01T10:00:00Z"),
        ("/weather?origin=EWR&at=noon", "at cannot be 'noon'"),
        ("/weather?origin=EWR&at=0001-01-01T00:00:00%2B05:00", "at cannot be '0001-01-01T00:00:00+05:00'"),
        ("/weather/daily?date=2013-01-01", "origin and date are required, such as ?origin=EWR&date=2013-01-01"),
    ],
)
async def test_weather_rejects_invalid_parameters(path: str, detail: str) -> None:
    response = await ask("weather", "GET", path)
    assert (response.status_code, response.json()["detail"]) == (400, detail)


async def test_weather_of_a_day_is_its_observed_hours_in_order() -> None:
    answer = await get("weather", "/weather/daily", origin="JFK", date="2013-01-02")
    assert [hour["hour"] for hour in answer["hours"]] == list(range(24))
    posted = await ask("weather", "POST", "/weather/search", json={"origin": "JFK", "date": "2013-01-02", "limit": 24})
    assert posted.json() == answer
