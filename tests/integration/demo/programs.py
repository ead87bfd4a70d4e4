"""Programs for the tests of the demo, on ports that are free."""

import asyncio
import socket
from contextlib import ExitStack

from demo.supervisor import Program

LOOPBACK = "127.0.0.1"


def free_ports(count: int) -> list[int]:
    """Distinct ports that nobody listened on a moment ago."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [probe.getsockname()[1] for probe in probes]


def service(name: str, port: int) -> Program:
    """One of the demo's services."""
    return Program(
        name=name,
        module=f"demo.{name}",
        arguments=("--port", str(port)),
        port=port,
        ready_path="/health",
        port_variable=f"{name.upper()}_PORT",
    )


def misbehaving(how: str, port: int) -> Program:
    return Program(
        name=how,
        module="tests.integration.demo.misbehaving",
        arguments=(how, str(port)),
        port=port,
        ready_path="/",
        port_variable="MISBEHAVING_PORT",
    )


async def is_listening(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(LOOPBACK, port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


async def until_silent(port: int, *, timeout_s: float = 10.0) -> None:
    """Return when nobody listens on the port. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while await is_listening(port):
            await asyncio.sleep(0.05)
