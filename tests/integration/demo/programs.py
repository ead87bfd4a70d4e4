"""Programs for the tests of the demo, on given ports."""

import asyncio

from anabranch.testing.serving import LOOPBACK
from demo.supervisor import Program


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


async def until_silent(port: int, *, timeout_s: float = 30.0) -> None:
    """Return when nothing listens on the port. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while await is_listening(port):
            await asyncio.sleep(0.05)
