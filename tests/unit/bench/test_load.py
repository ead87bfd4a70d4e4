import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from bench.cases import SLOW_S
from bench.histogram import Histogram
from bench.load import Job, Load
from bench.upstream import Server, Services, listen
from tests.unit.bench.draws import Draws


@asynccontextmanager
async def serving(protocol: Callable[[], asyncio.Protocol]) -> AsyncIterator[int]:
    """Serve on a free port. At the end every connection is closed, including those accepted at the last moment."""
    sock = listen()
    server = await asyncio.get_running_loop().create_server(protocol, sock=sock)
    try:
        yield sock.getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()
        for _ in range(20):  # turns of the loop: accepting, reading the end of the stream and closing take a few each
            await asyncio.sleep(0.001)


@asynccontextmanager
async def services(*draws: float) -> AsyncIterator[tuple[int, Services]]:
    known = Services(Draws(*draws))
    loop = asyncio.get_running_loop()
    async with serving(lambda: Server(known, loop)) as port:
        yield port, known


def job(port: int, path: str, *, length: int | None = None, rate: float | None = None) -> Job:
    return Job(port=port, paths=[path], length=length, clients=2, warmup_s=0.0, seconds=0.5, rate=rate)


async def test_a_closed_loop_counts_right_answers() -> None:
    async with services() as (port, known):
        result = await Load(job(port, "/user", length=len(known.ready[b"/user"].partition(b"\r\n\r\n")[2]))).run()
    assert result.errors == {}
    assert result.answered > 0
    assert Histogram(result.buckets).total == result.answered


async def test_wrong_lengths_and_statuses_count_as_errors_not_answers() -> None:
    async with services() as (port, _):
        long = await Load(job(port, "/user", length=1)).run()
        missing = await Load(job(port, "/nothing")).run()
    assert set(long.errors) == {"length"}
    assert set(missing.errors) == {"status"}
    assert long.answered == missing.answered == 0


async def test_an_open_loop_counts_a_stall_in_every_request_due_meanwhile() -> None:
    """Both connections stall for a second at the start: all requests that were due in the interval have waited for most of it."""
    async with services(0.0, 0.0) as (port, known):
        result = await Load(job(port, "/flaky/user", rate=100)).run()
    # The length of the interval depends on the machine, so the bounds use the actual length.
    assert abs(Histogram(result.buckets).total - 100 * result.seconds) <= 2
    assert Histogram(result.buckets).percentile_us(1) > 0.95e6 * (SLOW_S - result.seconds)
    assert result.errors == {}
    assert known.flaky == result.sent


class HangUp(asyncio.Protocol):
    """Closes the connection instead of answering."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.close()


async def test_a_lost_connection_counts_as_an_error_and_is_replaced() -> None:
    async with serving(HangUp) as port:
        result = await Load(job(port, "/user")).run()
    assert set(result.errors) == {"lost"}
    assert result.errors["lost"] > 2
