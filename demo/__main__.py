"""`python -m demo`: starts the five services and the gateway, prints what to try, and stops everything on Ctrl-C or SIGTERM.

Ports come from FLIGHTS_PORT, AIRLINES_PORT, AIRPORTS_PORT, PLANES_PORT, WEATHER_PORT and ANABRANCH_PORT.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from demo.service import PORTS
from demo.supervisor import Program, StartError, Supervisor

GATEWAY_PORT = 8080


def programs(environment: Mapping[str, str]) -> list[Program]:
    """The services and, last, the gateway with their addresses. Raises StartError when a port is not valid."""
    ports = {name: _port(environment, f"{name.upper()}_PORT", default) for name, default in PORTS.items()}
    services = [
        Program(
            name=name,
            module=f"demo.{name}",
            arguments=("--port", str(port)),
            port=port,
            ready_path="/health",
            port_variable=f"{name.upper()}_PORT",
        )
        for name, port in ports.items()
    ]
    port = _port(environment, "ANABRANCH_PORT", GATEWAY_PORT)
    gateway = Program(
        name="gateway",
        module="anabranch",
        arguments=("run", "demo/gateway.yaml"),
        port=port,
        ready_path="/readyz",
        port_variable="ANABRANCH_PORT",
        environment={"ANABRANCH_PORT": str(port), "ANABRANCH_ACCESS_LOG": environment.get("ANABRANCH_ACCESS_LOG", "off")}
        | {f"{name.upper()}_URL": f"http://127.0.0.1:{port}" for name, port in ports.items()},
    )
    return [*services, gateway]


def _port(environment: Mapping[str, str], variable: str, default: int) -> int:
    text = environment.get(variable) or str(default)
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 65536):
        raise StartError(f"{variable} must be a port between 1 and 65535, not {text}")
    return int(text)


def screen(supervisor: Supervisor) -> str:
    """What runs where, what to try, and how to break it."""
    children = supervisor.children
    gateway = f"http://127.0.0.1:{children['gateway'].program.port}"
    weather = children["weather"]
    python = Path(sys.executable)
    interpreter = python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python
    port_option = "" if weather.program.port == PORTS["weather"] else f" --port {weather.program.port}"
    in_order = [children["gateway"], *(child for name, child in children.items() if name != "gateway")]
    addresses = "\n".join(f"  {child.program.name:<10} http://127.0.0.1:{child.program.port:<6} pid {child.pid}" for child in in_order)
    return f"""
Anabranch over five services: every departure from New York in January 2013

{addresses}

Try it, in another terminal:

  curl {gateway}/flights/1/briefing
  curl '{gateway}/airports/JFK/board?date=2013-01-05&limit=3'
  curl '{gateway}/airports/LGA/departures?limit=3&fields=flights(flight,dest,airline,plane)'
  curl {gateway}/search -H 'content-type: application/json' -d '{{"origin": "LGA", "date": "2013-01-31", "carrier": "UA"}}'

Try all endpoints in the browser:  {gateway}/docs

Break something:

  kill {weather.pid}
      stops the weather service. Then run
  curl -i {gateway}/flights/1/briefing
      The answer is still 200. `weather` is null, Gateway-Complete is ?0, and Server-Timing and Proxy-Status say why.
  {interpreter} -m demo.weather{port_option}
      starts it again (until Ctrl-C there), and the next briefing is complete. Without `flights` the answer is a 502 that says so.

Ctrl-C stops everything.
"""


def say(text: str) -> None:
    print(text, flush=True)


async def run() -> None:
    """Start everything, print what to try, and wait. SIGINT and SIGTERM cancel it; a second signal does not wait for the children."""
    task = asyncio.current_task()
    assert task is not None
    with contextlib.suppress(NotImplementedError):  # where event loops cannot handle signals, asyncio.run handles Ctrl-C
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    async with Supervisor(programs(os.environ), say=say) as supervisor:
        say("Starting five services and the gateway ...")
        await supervisor.start()
        say(screen(supervisor))
        await asyncio.Event().wait()


def main() -> int:
    try:
        asyncio.run(run())
    except StartError as error:
        print(f"The demo cannot start. {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        say("Stopped.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
