"""Picks ports for programs that need a port number before they listen.

If a probe binds port 0 and closes again, the system may assign that port to another socket before the program listens. These ports lie
below the range from which the system assigns ports, so only a socket that requests a port by number can take it. Each test process has its
own stretch of ports and cycles through it before it repeats one.
"""

import os
import random
import socket
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Final

from anabranch.testing.serving import LOOPBACK

_LOWEST: Final = 12_000
_STRETCH: Final = 1_000
_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")


def _ports() -> Iterator[int]:
    """Candidate ports, without end."""
    highest = 32_768
    with suppress(OSError, ValueError):
        highest = int(_RANGE.read_text("utf-8").split()[0])
    stretches = max(1, (highest - _LOWEST) // _STRETCH)
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    first = _LOWEST + (int(worker) if worker.isdigit() else 0) % stretches * _STRETCH
    # Another test run on this machine has the same stretch, so start at a random position.
    start = random.SystemRandom().randrange(_STRETCH)
    for number in count(start):
        yield first + number % _STRETCH


_NUMBERS: Final = _ports()


def free_ports(count: int) -> list[int]:
    """Distinct loopback ports that are not in use."""
    found: list[int] = []
    for port in _NUMBERS:
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            break
    return found


def free_port() -> int:
    (port,) = free_ports(1)
    return port
