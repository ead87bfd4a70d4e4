"""The demo's Python route, over the real services without sockets."""

from collections.abc import AsyncIterator
from functools import cache
from types import ModuleType
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from anabranch.core.exchange import Answer
from anabranch.edge.python import FanOut, FanOutFailed, fan_out
from anabranch.engine.python import upstream_handles
from anabranch.errors import ConnectError
from anabranch.policy.call import Call, Policy
from demo import airports, flights, weather
from demo.routes import Flight, earliest_after, router
from demo.service import Service
from tests.support.documents import upstream_plan

MODULES: dict[str, ModuleType] = {"flights": flights, "airports": airports, "weather": weather}


@cache
def service(name: str) -> Service:
    built: Service = MODULES[name].build()
    return built


def answering(name: str) -> Policy:
    """A policy stack that ends in the service itself."""

    async def policy(call: Call) -> Answer:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(service(name)), base_url="http://demo") as client:
            response = await client.request(call.request.method, call.request.target)
        return Answer(status=response.status_code, headers=[], body=response.content)

    return policy


async def refusing(call: Call) -> Answer:
    raise ConnectError("nobody listens")


async def asked(path: str, *, down: str = "") -> tuple[httpx.Response, FanOut]:
    """The answer to a GET, and the fan-out that produced it. `down`: an unreachable service."""
    upstreams = {name: upstream_plan(name, url="http://demo") for name in MODULES}
    policies = {name: refusing if name == down else answering(name) for name in MODULES}
    fans: list[FanOut] = []

    async def fan_over_services() -> AsyncIterator[FanOut]:
        fans.append(FanOut(upstream_handles(upstreams, policies), deadline=float("inf"), client_headers={}, extra=()))
        yield fans[-1]

    app = FastAPI()
    app.include_router(router)
    app.dependency_overrides[fan_out] = fan_over_services
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://demo") as client:
        return await client.get(path), fans[-1]


async def test_next_trip_is_the_planes_next_departure_with_its_airports_and_weather() -> None:
    response, fan = await asked("/trips/1/next")
    assert response.status_code == 200
    trip = response.json()
    rows = [row for row in flights.load() if row["tailnum"] == "N14228" and not row["cancelled"]]
    assert (trip["flight"]["id"], trip["next"]["id"]) == (1, rows[1]["id"])
    assert trip["hours_between"] > 0
    assert (trip["origin"]["faa"], trip["destination"]["faa"]) == (rows[1]["origin"], rows[1]["dest"])
    assert set(trip["weather"]) == {"temp", "wind_speed", "visib"}
    assert fan.is_complete
    assert [outcome.step for outcome in fan.outcomes[:2]] == ["flight", "rotation"]
    assert {outcome.step for outcome in fan.outcomes[2:]} == {"origin", "destination", "weather"}


async def test_without_weather_the_trip_is_incomplete() -> None:
    response, fan = await asked("/trips/1/next", down="weather")
    assert (response.status_code, response.json()["weather"]) == (200, None)
    assert not fan.is_complete


async def test_without_flights_the_trip_fails() -> None:
    with pytest.raises(FanOutFailed):
        await asked("/trips/1/next", down="flights")


@pytest.mark.parametrize(
    ("flight_id", "detail"),
    [
        (1783, "the plane of this flight is not known"),
        (max(row["id"] for row in flights.load() if row["tailnum"] == "N14228"), "the plane did not leave New York again in January 2013"),
    ],
)
async def test_flight_without_a_next_trip_is_a_404(flight_id: int, detail: str) -> None:
    response, _ = await asked(f"/trips/{flight_id}/next")
    assert (response.status_code, response.json()["detail"]) == (404, detail)


async def test_number_below_one_is_rejected() -> None:
    response, fan = await asked("/trips/0/next")
    assert response.status_code == 422
    assert fan.outcomes == []


def test_earliest_is_chosen_by_schedule_not_by_order() -> None:
    def flight(**changes: Any) -> Flight:
        return Flight.model_validate(
            {"id": 1, "date": "2013-01-01", "carrier": "UA", "flight": 1, "tailnum": "N1", "origin": "EWR", "dest": "IAH", "minute": 0,
             "sched_dep_time": 500, "dep_delay": 0, "time_hour": "2013-01-01T10:00:00Z", "cancelled": False} | changes
        )  # fmt: skip

    late = flight(id=2, time_hour="2013-01-03T10:00:00Z")
    soon = flight(id=3, minute=30)
    before = flight(id=4, time_hour="2013-01-01T09:00:00Z")
    assert earliest_after(flight(), [late, before, flight(), soon]) == soon
    assert earliest_after(late, [late, before, soon]) is None
