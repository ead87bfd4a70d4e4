"""Tests of the demo's document in Python, with respx in place of its services. `demo/specs` does the same without code.

The fixture `gateway` comes with Anabranch, `respx_mock` with respx. A call that no route matches fails the test.
"""

import httpx
import respx

from anabranch.testing import GatewayFixture

DOCUMENT = "demo/gateway.yaml"
FLIGHTS = "http://127.0.0.1:9101"
AIRPORTS = "http://127.0.0.1:9103"
WEATHER = "http://127.0.0.1:9105"


def departure(number: int, at: str, **more: object) -> dict[str, object]:
    """A flight as the flights service answers it."""
    whole = {"date": at[:10], "carrier": "B6", "flight": 7, "tailnum": "N1", "origin": "JFK", "dest": "MIA", "sched_dep_time": 600}
    return {"id": number, "time_hour": at, "minute": 0, "dep_delay": 3, "arr_delay": 4, "cancelled": False, **whole, **more}


def test_a_report_is_computed_in_another_process(gateway: GatewayFixture, respx_mock: respx.MockRouter) -> None:
    asked = respx_mock.get(f"{FLIGHTS}/flights", params={"carrier": "B6", "origin": "JFK"})
    asked.respond(json={"total": 3, "flights": [{"dep_delay": 0, "arr_delay": delay} for delay in (1, 2, 3)]})
    with gateway(DOCUMENT, respx_mock) as running:
        response = running.client.get("/reports/delays/B6/JFK?resamples=100")
    assert response.json()["delay"]["mean"] == 2.0
    assert asked.calls.last.request.url.params["limit"] == "1000"


async def test_a_route_in_python_calls_the_upstreams_too(gateway: GatewayFixture, respx_mock: respx.MockRouter) -> None:
    respx_mock.get(f"{FLIGHTS}/flights/1").respond(json=departure(1, "2013-01-01T10:00:00Z"))
    rotation = [departure(number, f"2013-01-0{number}T10:00:00Z", dest=dest) for number, dest in ((1, "MIA"), (3, "BOS"), (2, "LAX"))]
    respx_mock.get(f"{FLIGHTS}/flights", params={"tailnum": "N1"}).respond(json={"flights": rotation})
    respx_mock.get(url__startswith=f"{AIRPORTS}/airports/").respond(json={"faa": "LAX", "name": "Los Angeles", "tzone": None})
    respx_mock.get(f"{WEATHER}/weather").mock(side_effect=httpx.ConnectError("refused"))
    async with gateway(DOCUMENT, respx_mock) as running:
        response = await running.client.get("/trips/1/next")
    trip = response.json()
    assert (trip["next"]["dest"], trip["hours_between"], trip["weather"]) == ("LAX", 24.0, None)
    assert response.headers["gateway-complete"] == "?0"
    assert [call.error for call in running.calls if call.upstream == "weather"] == ["connect_failed"]


def test_a_search_forwards_the_body(gateway: GatewayFixture) -> None:
    """Scripted services, in the form of the spec files, where a router is too much."""
    services = {
        "flights": {"POST /flights/search": {"template": {"total": 1, "for": "{body.dest}"}}},
        "weather": {"*": {"json": {"hours": []}}},
        "airports": {"*": {"json": {"airports": [{"faa": "LGA"}]}}},
    }
    with gateway(DOCUMENT, services) as running:
        response = running.client.post("/search", json={"origin": "LGA", "date": "2013-01-31", "dest": "ORD"})
    assert response.json() == {"found": {"total": 1, "for": "ORD"}, "weather": {"hours": []}, "airport": {"faa": "LGA"}}
    assert next(call for call in running.calls if call.upstream == "weather").json() == {"origin": "LGA", "date": "2013-01-31", "limit": 24}
