"""A parent process that the tests kill: starts two services on the given ports, reports it, and waits."""

import asyncio
import sys

from demo.supervisor import Supervisor
from tests.integration.demo.programs import service


async def main(ports: list[int]) -> None:
    async with Supervisor([service("airlines", ports[0]), service("planes", ports[1])], say=print) as supervisor:
        await supervisor.start()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main([int(text) for text in sys.argv[1:]]))
