"""Ports for programs that have to be told one before they listen.

A port that the system chose for a probe is free for everybody again when the probe is closed: the next socket that asks for any port may get it
before the program listens. These come from below the range that the system chooses from, so that only who asks for one by its number can
take it; each process of the tests has a stretch of its own, and hands no port out twice in a row.
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
    """Numbers to try, for ever."""
    highest = 32_768
    with suppress(OSError, ValueError):
        highest = int(_RANGE.read_text("utf-8").split()[0])
    stretches = max(1, (highest - _LOWEST) // _STRETCH)
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    first = _LOWEST + (int(worker) if worker.isdigit() else 0) % stretches * _STRETCH
    # Another run of the tests on this machine has the same stretch: let it be somewhere else in it.
    start = random.SystemRandom().randrange(_STRETCH)
    for number in count(start):
        yield first + number % _STRETCH


_NUMBERS: Final = _ports()


def free_ports(count: int) -> list[int]:
    """Distinct loopback ports on which nobody listens."""
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
