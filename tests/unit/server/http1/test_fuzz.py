"""Whatever a client sends: as many answers as a strict reading of the bytes has requests, in their order, and each request as it was written.

A difference would be a desynchronisation, by which one client's bytes become another client's request. `ANABRANCH_FUZZ=100000` sets the number of
inputs; by default there are two thousand.

    ANABRANCH_FUZZ=100000 python -m pytest tests/unit/server/http1/test_fuzz.py
"""

import asyncio
import os
from collections.abc import Iterator
from random import Random

import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from anabranch.server.http1.connection import BoundedProtocol
from tests.support import strict_http
from tests.support.head_server import PATIENCE_S
from tests.support.http_fuzz import Recorder, answered_in_memory, differences, generate, pieces
from tests.support.serving import LOOPBACK

INPUTS = int(os.environ.get("ANABRANCH_FUZZ", "2000"))
ON_SOCKETS = 10
"""One of so many inputs also goes over a real socket."""


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as one:
        yield one


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(random=st.randoms(use_true_random=False))
def test_every_request_is_read_as_it_was_written(runner: asyncio.Runner, random: Random) -> None:
    runner.run(check(random))


def test_many_seeds(runner: asyncio.Runner) -> None:
    """The same without Hypothesis, which makes small examples of faults, and takes its time for it."""
    for seed in range(INPUTS):
        runner.run(check(Random(seed), is_on_socket=seed % ON_SOCKETS == 0))


async def check(random: Random, *, is_on_socket: bool = False) -> None:
    data = generate(random)
    reading = strict_http.read(data)
    app = Recorder(is_early=random.random() < 0.2 and b"xpect" not in data.lower())
    parts = pieces(random, data)
    sent, is_closed = await answered_in_memory(parts, app)
    found = differences(reading, sent, app)
    assert is_closed, f"the connection stays open behind {data!r} in {[len(part) for part in parts]}"
    assert not found, f"{found} of {data!r} in {[len(part) for part in parts]}"
    if is_on_socket:
        app = Recorder()
        found = differences(reading, await answered_on_socket(parts, app), app)
        assert not found, f"{found} on a socket, of {data!r} in {[len(part) for part in parts]}"


async def answered_on_socket(data: list[bytes], app: Recorder) -> bytes:
    """What a real server sends in answer to `data`, after which the client shuts down its sending side."""
    config = uvicorn.Config(app, http=BoundedProtocol, ws="none", lifespan="off", log_config=None, access_log=False)
    config.load()
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(lambda: BoundedProtocol(config, state, {}), LOOPBACK, 0)
    async with server, asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for piece in data:
            writer.write(piece)
            await asyncio.sleep(0)
        writer.write_eof()
        sent = await reader.read()
        writer.close()
        await writer.wait_closed()
        while state.connections:
            await asyncio.sleep(0)
    return sent
