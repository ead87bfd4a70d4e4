"""Tools for isolation trials: small requests whose latency is measured, beside heavy requests that should not slow them down.

`python -m bench.pressure` runs the service behind the gateway: small bodies at `/small/N`, and a large body at `/large` (plain) and
`/large.gz`.
"""

import asyncio
import contextlib
import http.client
import json
import os
import random
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Self, cast

import uvloop

from bench.load import Job
from bench.server import Cores, free_port, process, wait_until_up
from bench.trial import Trial, run

LARGE_BYTES: Final = 50_000_000
AGGREGATE: Final = "/aggregate"
RATE: Final = 100.0
_PATIENCE_S: Final = 30.0
_ROWS: Final = 500


def endpoints() -> list[dict[str, object]]:
    """The plain aggregate: three small calls under their names."""
    steps = {f"s{number}": {"upstream": "service", "path": f"/small/{number}"} for number in range(3)}
    return [{"path": AGGREGATE, "timeout": "30s", "steps": steps}]


def large_body(size: int = LARGE_BYTES) -> bytes:
    """JSON of about that size: a table of rows of mixed types; a block of 500 rows is repeated."""
    draw = random.Random(5)
    rows = [
        {
            "id": number,
            "name": f"n{draw.random()}",
            "price": draw.random() * 100,
            "tags": ["a", str(number)],
            "nested": {"x": number, "y": None},
        }
        for number in range(_ROWS)
    ]
    block = json.dumps(rows, separators=(",", ":")).encode()[1:-1]
    return b'{"total":1,"rows":[' + b",".join([block] * (size // len(block))) + b"]}"


class _Service(asyncio.Protocol):
    """Just enough HTTP/1.1 for a well-behaved client."""

    def __init__(self, answers: Mapping[bytes, list[bytes]]) -> None:
        self._answers = answers

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        path = data.split(b" ", 2)[1]
        for part in self._answers.get(path) or self._answers[path[:6]]:
            self._transport.write(part)


async def serve() -> None:
    """Print the port and answer until terminated."""
    plain = large_body()
    packed = zlib.compress(plain, 6, wbits=31)
    small = json.dumps({"id": 1, "rows": [{"n": number} for number in range(60)]}).encode()
    answers = {
        b"/small": [_head(len(small)) + small],
        b"/large": [_head(len(plain)), plain],
        b"/large.gz": [_head(len(packed), b"content-encoding: gzip\r\n"), packed],
    }
    server = await asyncio.get_running_loop().create_server(lambda: _Service(answers), "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


def _head(size: int, more: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n" % (more, size)


@contextlib.contextmanager
def service(cores: Cores) -> Iterator[str]:
    """Start the service; yields its URL."""
    with process([sys.executable, "-m", "bench.pressure"], cores=cores.load, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        yield f"http://127.0.0.1:{int(child.stdout.readline())}"


@contextlib.contextmanager
def gateway(cores: frozenset[int], document: Mapping[str, object], folder: Path, prelude: str = "") -> Iterator[tuple[int, int]]:
    """Start a gateway with a document; yields port and process id. `prelude`: Python code that runs first in its process, to replace
    parts."""
    file = folder / "gateway.yaml"
    file.write_text(json.dumps(document))
    port = free_port()
    log = folder / "gateway.log"
    start = f"import sys\n{prelude}\nfrom anabranch.cli.main import main\nsys.argv = ['anabranch', 'run', {str(file)!r}, '--port', '{port}']\nmain()"
    clean = {name: "" for name in os.environ if name.startswith("ANABRANCH_")}
    with log.open("wb") as out, process([sys.executable, "-c", start], cores=cores, environment=clean, stderr=out) as child:
        wait_until_up("anabranch", child, port, AGGREGATE, log, _PATIENCE_S)
        yield port, child.pid


class Pressure:
    """Threads that request one path repeatedly, `pause_s` after each answer, while the block runs. `taken_s`: duration of each answer."""

    def __init__(self, port: int, path: str, *, threads: int, pause_s: float = 0.0) -> None:
        self.taken_s: list[float] = []
        self.faults = 0
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(port, path, pause_s)) for _ in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, port: int, path: str, pause_s: float) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        part = bytearray(1 << 20)
        while not self._is_over.is_set():
            began = time.perf_counter()
            connection.request("GET", path)
            response = connection.getresponse()
            while response.readinto(part):
                pass
            self.taken_s.append(time.perf_counter() - began)
            self.faults += response.status != 200
            self._is_over.wait(pause_s)
        connection.close()


def aggregate(cores: Cores, port: int, pid: int, seconds: float) -> Trial:
    """Measure the latency of the plain aggregate, at a rate far below the gateway's maximum."""
    job = Job(port=port, paths=[AGGREGATE], length=None, clients=32, warmup_s=1.0, seconds=seconds, rate=RATE, pid=pid)
    return Trial.of(run("bench.load", [], job, cores=cores.load, seconds=seconds + 1.0))


if __name__ == "__main__":
    uvloop.run(serve())
