"""Latency of an exchange with a service that writes head and body in two pieces with Nagle's algorithm on, as Python's http.server does.

`python -m bench.pieces` measures both transports with the acknowledgement of `anabranch.upstream.quickack` and without it. Linux only.
"""

import asyncio
import socket
import statistics
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Final, Literal
from unittest import mock

import uvloop

from anabranch.config.model import Upstream
from anabranch.core.exchange import Request
from anabranch.plan.upstream import compile_upstream
from anabranch.upstream.open import open_transport

EXCHANGES: Final = 200
_PIECES: Final = (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", b"{}")


@contextmanager
def service() -> Iterator[int]:
    """The port of a service for one connection at a time."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_serve, args=(listening,), daemon=True).start()
        yield listening.getsockname()[1]


def _serve(listening: socket.socket) -> None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        with connection:
            while connection.recv(65536):
                for piece in _PIECES:
                    connection.sendall(piece)


async def median_ms(kind: Literal["wire", "httpx"], port: int) -> float:
    """The median time of an exchange on a kept connection."""
    plan = compile_upstream("pieces", Upstream(url=f"http://127.0.0.1:{port}", transport=kind))
    transport = open_transport(plan)
    loop = asyncio.get_running_loop()
    times = []
    for _ in range(EXCHANGES):
        began = perf_counter()
        await transport.exchange(Request("GET", "/"), plan.addresses[0], loop.time() + 10)
        times.append(perf_counter() - began)
    await transport.aclose()
    return statistics.median(times) * 1000


def main() -> int:
    """Print the table. Exit code 3 where the system has no TCP_QUICKACK."""
    if not hasattr(socket, "TCP_QUICKACK"):
        print("This system has no TCP_QUICKACK.", file=sys.stderr)
        return 3
    print("| transport | acknowledged at once | acknowledged by the kernel |\n| --- | --- | --- |")
    kinds: tuple[Literal["wire", "httpx"], ...] = ("wire", "httpx")
    for kind in kinds:
        with service() as port:
            prompt = uvloop.run(median_ms(kind, port))
            with mock.patch("anabranch.upstream.quickack._OPTION", None):
                delayed = uvloop.run(median_ms(kind, port))
        print(f"| {kind} | {prompt:.2f} ms | {delayed:.2f} ms |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
