"""`python -m demo` as a new user sees it: start, the printed lines, a service killed and restarted, Ctrl-C."""

import asyncio
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest

from anabranch.testing.serving import LOOPBACK
from demo.service import PORTS
from demo.supervisor import ROOT
from tests.integration.demo.programs import is_listening, until_silent
from tests.support.ports import free_ports

START_TIMEOUT_S = 60.0
RECOVERY_TIMEOUT_S = 40.0


@dataclass(kw_only=True)
class Demo:
    """A running demo. `screen`: its output when ready. `ports`, `pids`: of the services and the gateway, by name."""

    process: Process
    screen: str
    ports: dict[str, int]
    pids: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pids = {name: int(pid) for name, pid in re.findall(r"^  (\w+) +http://\S+ +pid (\d+)$", self.screen, re.MULTILINE)}

    async def line(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(RECOVERY_TIMEOUT_S):
            return (await self.process.stdout.readline()).decode().rstrip()

    async def get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(base_url=f"http://{LOOPBACK}:{self.ports['gateway']}", timeout=RECOVERY_TIMEOUT_S) as client:
            return await client.get(path)

    async def whole(self, path: str) -> httpx.Response:
        """The answer once every service has been in time; on a busy machine the first one may not be."""
        return await self.until(path, is_whole)

    async def until(self, path: str, is_right: Callable[[httpx.Response], bool]) -> httpx.Response:
        async with asyncio.timeout(RECOVERY_TIMEOUT_S):
            while not is_right(response := await self.get(path)):
                await asyncio.sleep(0.1)
            return response


def is_whole(response: httpx.Response) -> bool:
    return bool(response.headers.get("gateway-complete") == "?1")


async def started(ports: dict[str, int]) -> Process:
    variables = {f"{'ANABRANCH' if name == 'gateway' else name.upper()}_PORT": str(port) for name, port in ports.items()}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "demo"),
        cwd=ROOT,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def chosen_ports() -> dict[str, int]:
    return dict(zip((*PORTS, "gateway"), free_ports(len(PORTS) + 1), strict=True))


@asynccontextmanager
async def running_demo() -> AsyncIterator[Demo]:
    ports = chosen_ports()
    process = await started(ports)
    try:
        assert process.stdout is not None
        screen = ""
        async with asyncio.timeout(START_TIMEOUT_S):
            while "Ctrl-C stops everything." not in screen:
                line = (await process.stdout.readline()).decode()
                assert line, f"the demo ended while it started:\n{screen}"
                screen += line
            await process.stdout.readline()
        yield Demo(process=process, screen=screen, ports=ports)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        for port in ports.values():
            await until_silent(port)


@asynccontextmanager
async def service_again(name: str, port: int) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(*(sys.executable, "-m", f"demo.{name}", "--port", str(port)), cwd=ROOT)
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


@pytest.fixture
async def demo() -> AsyncIterator[Demo]:
    async with running_demo() as running:
        yield running


async def curl(command: str) -> httpx.Response:
    """The output of a curl command line. Supports -H, -d and -i, the options that the demo prints."""
    words = shlex.split(command)[1:]
    url, headers, data = "", {}, None
    while words:
        word = words.pop(0)
        if word == "-H":
            name, _, value = words.pop(0).partition(": ")
            headers[name] = value
        elif word == "-d":
            data = words.pop(0)
        elif word != "-i":
            url = word
    async with httpx.AsyncClient(timeout=RECOVERY_TIMEOUT_S) as client:
        return await client.request("GET" if data is None else "POST", url, headers=headers, content=data)


async def test_every_printed_curl_line_works_and_the_docs_are_served(demo: Demo) -> None:
    commands = [line.strip() for line in demo.screen.splitlines() if line.strip().startswith("curl ")]
    assert len(commands) == 5
    for command in commands:
        async with asyncio.timeout(RECOVERY_TIMEOUT_S):
            while not is_whole(response := await curl(command)):
                await asyncio.sleep(0.1)
        assert response.status_code == 200, f"{command}\n{response.text}"
        assert response.json()
    (docs,) = re.findall(r"http://\S+/docs", demo.screen)
    assert (await curl(f"curl {docs}")).status_code == 200


async def test_endpoints_answer_as_their_comments_describe(demo: Demo) -> None:
    briefing = (await demo.whole("/flights/1/briefing")).json()
    assert list(briefing) == ["flight", "airline", "plane", "origin", "destination", "weather", "fleet", "delays"]
    assert briefing["airline"] == {"name": "United Air Lines Inc."}
    assert briefing["fleet"] == {"planes_of_this_model": 122}
    assert briefing["weather"]["temp"] == 39.02
    assert briefing["delays"] == {"flights": 200, "cancelled": 1, "on_time_share": 0.92, "median": 0.0, "worst_tenth": 13.2}

    no_plane = await demo.get("/flights/10/briefing")
    assert (no_plane.status_code, no_plane.headers["gateway-complete"]) == (200, "?0")
    assert (no_plane.json()["plane"], no_plane.json()["fleet"]) == (None, None)
    assert (await demo.get("/flights/4/briefing")).json()["destination"] is None
    assert (await demo.get("/flights/1783/briefing")).json()["plane"] is None
    assert (await demo.get("/flights/293/briefing")).json()["weather"] is None
    assert (await demo.get("/flights/99999/briefing")).status_code == 404

    route = (await demo.whole("/routes/B6/JFK/LAX?limit=1")).json()
    assert route["route"] == "JetBlue Airways: JFK to LAX"
    assert route["distance_miles"] == 2475
    assert len(route["first_flights"]) == 1
    assert (await demo.get("/routes/B6/JFK/ABC")).json()["distance_miles"] is None

    board = (await demo.whole("/airports/EWR/board?limit=3&carrier=UA")).json()
    assert {flight["carrier"] for flight in board["departures"]["flights"]} == {"UA"}
    assert [set(hour) for hour in board["weather"]] == [{"hour", "temp", "wind_dir", "wind_speed", "precip", "visib"}] * 22

    departures = (await demo.whole("/airports/JFK/departures?limit=3&weather=true")).json()["flights"]
    assert [flight["airline"]["name"] for flight in departures] == ["American Airlines Inc.", "JetBlue Airways", "JetBlue Airways"]
    assert [flight["plane"]["model"] for flight in departures] == ["757-223", "A320-232", "A320-232"]
    assert [flight["weather"]["temp"] for flight in departures] == [39.02, 39.02, 37.94]
    short = await demo.whole("/airports/LGA/departures?limit=1&fields=flights(flight,dest,airline)")
    assert short.json() == {"flights": [{"flight": 1714, "dest": "IAH", "airline": {"name": "United Air Lines Inc."}}]}
    assert "planes" not in short.headers["server-timing"]

    nearby = (await demo.whole("/airports/JFK/nearby")).json()
    assert (nearby["airport"], nearby["elevation"]) == ("John F Kennedy International Airport", "13 feet")
    assert nearby["nearest"][0] == {"faa": "LGA", "name": "Laguardia Airport", "distance": "11 miles"}
    assert (await demo.get("/airports/SJU/nearby")).status_code == 404

    async with httpx.AsyncClient(base_url=f"http://{LOOPBACK}:{demo.ports['gateway']}", timeout=RECOVERY_TIMEOUT_S) as client:
        search = {"origin": "LGA", "date": "2013-01-31", "carrier": "UA"}
        async with asyncio.timeout(RECOVERY_TIMEOUT_S):
            while not is_whole(answer := await client.post("/search", json=search)):
                await asyncio.sleep(0.1)
        found = answer.json()
        refused = await client.post("/search", json={"origin": "LAX", "day": 31})
    assert (found["found"]["total"], len(found["weather"]["hours"]), found["airport"]["name"]) == (22, 24, "Laguardia Airport")
    assert (refused.status_code, refused.headers["content-type"]) == (400, "application/problem+json")

    airline = (await demo.whole("/airlines/HA")).json()
    assert (airline["name"], airline["flights"]) == ("Hawaiian Airlines Inc.", 31)

    report = await demo.whole("/reports/delays/B6/JFK")
    assert report.status_code == 200, report.text
    delay = report.json()["delay"]
    assert (delay["flights"], delay["mean"]) == (999, 4.08)
    assert delay["low"] < 4.08 < delay["high"]
    none = await demo.whole("/reports/delays/HA/EWR")
    assert (none.status_code, none.json()["delay"]["mean"]) == (200, None)

    trip = await demo.whole("/trips/1/next")
    assert trip.status_code == 200
    assert trip.json()["flight"]["id"] == 1


async def test_weather_can_be_killed_and_restarted(demo: Demo) -> None:
    os.kill(demo.pids["weather"], signal.SIGTERM)
    assert (await demo.line()).startswith("weather has ended")
    response = await demo.get("/flights/1/briefing")
    assert response.status_code == 200
    assert response.json()["weather"] is None
    assert response.json()["flight"]["id"] == 1
    assert response.headers["gateway-complete"] == "?0"
    assert re.search(r"weather;[^,]*desc=", response.headers["server-timing"])
    assert "weather" in response.headers["proxy-status"]
    async with service_again("weather", demo.ports["weather"]):
        whole = await demo.until("/flights/1/briefing", lambda response: response.headers["gateway-complete"] == "?1")
        assert whole.json()["weather"]["temp"] == 39.02


async def test_without_flights_the_answer_is_a_problem_until_they_return(demo: Demo) -> None:
    os.kill(demo.pids["flights"], signal.SIGTERM)
    assert (await demo.line()).startswith("flights has ended")
    response = await demo.get("/flights/1/briefing")
    assert response.status_code == 502
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["errors"][0]["step"] == "flight"
    assert str(demo.ports["flights"]) not in response.text
    async with service_again("flights", demo.ports["flights"]):
        await demo.until("/flights/1/briefing", lambda response: response.status_code == 200)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_signal_stops_everything_with_exit_code_zero(number: signal.Signals) -> None:
    async with running_demo() as demo:
        demo.process.send_signal(number)
        async with asyncio.timeout(RECOVERY_TIMEOUT_S):
            assert await demo.process.wait() == 0
        assert not any([await is_listening(port) for port in demo.ports.values()])


async def test_no_process_is_left_when_the_demo_is_killed() -> None:
    async with running_demo() as demo:
        demo.process.kill()
        for port in demo.ports.values():
            await until_silent(port)


async def test_busy_port_ends_the_demo_with_one_sentence() -> None:
    ports = chosen_ports()
    with socket.create_server((LOOPBACK, ports["weather"])):
        process = await started(ports)
        said, _ = await process.communicate()
    assert process.returncode == 1
    assert said.decode().splitlines() == [
        "Starting five services and the gateway ...",
        f"The demo cannot start. weather: port {ports['weather']} is in use. Stop what listens there, or choose another: WEATHER_PORT=PORT",
    ]
