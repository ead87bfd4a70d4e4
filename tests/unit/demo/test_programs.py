"""The programs that `python -m demo` starts, configured by the environment."""

import pytest

from demo.__main__ import programs
from demo.supervisor import StartError


def test_services_start_first_and_the_gateway_receives_their_addresses() -> None:
    started = programs({})
    assert [(program.name, program.port) for program in started] == [
        ("flights", 9101),
        ("airlines", 9102),
        ("airports", 9103),
        ("planes", 9104),
        ("weather", 9105),
        ("gateway", 8080),
    ]
    assert started[-1].environment == {
        "ANABRANCH_PORT": "8080",
        "ANABRANCH_ACCESS_LOG": "off",
        "FLIGHTS_URL": "http://127.0.0.1:9101",
        "AIRLINES_URL": "http://127.0.0.1:9102",
        "AIRPORTS_URL": "http://127.0.0.1:9103",
        "PLANES_URL": "http://127.0.0.1:9104",
        "WEATHER_URL": "http://127.0.0.1:9105",
    }


def test_ports_come_from_the_environment() -> None:
    started = {program.name: program for program in programs({"WEATHER_PORT": "9999", "ANABRANCH_PORT": "8888", "PLANES_PORT": ""})}
    assert (started["weather"].port, started["weather"].arguments) == (9999, ("--port", "9999"))
    assert started["gateway"].port == 8888
    assert started["gateway"].environment["WEATHER_URL"] == "http://127.0.0.1:9999"
    assert started["planes"].port == 9104


@pytest.mark.parametrize("text", ["http", "0", "65536", "-1"])
def test_invalid_port_is_rejected(text: str) -> None:
    with pytest.raises(StartError, match=f"WEATHER_PORT must be a port between 1 and 65535, not {text}"):
        programs({"WEATHER_PORT": text})
