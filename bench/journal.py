"""Measures the cost of the journal. `python -m bench.journal` and `python -m bench.journal --records 1000000`.

The first command requests workload A from one gateway on three paths in turn: without a journal, with `relaxed` and with `required`
(response bodies). Taking turns spreads the effect of other work on the machine evenly. The first part is a closed loop: clients queue
behind each other, so latencies reflect the throughput. The second part runs at half the rate that the gateway reaches without a journal:
latencies are those of single requests. The second command writes the given number of records, as fast as the writer accepts them, and reads
them back.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Final

import uvloop
from uuid_utils import uuid7

from anabranch.config.journal import Journal as Config
from anabranch.journal.filter import Filter
from anabranch.journal.journal import Journal
from anabranch.journal.reader import Tally, lines
from anabranch.journal.record import VERSION, Record, RecordedRequest, Step, encode, kept
from anabranch.journal.segment import listed
from anabranch.journal.statistics import statistics
from anabranch.journal.verify import verify
from bench.gauge import wait_until_idle
from bench.load import Job
from bench.server import Cores, free_port, get, process, wait_until_up
from bench.trial import Trial, attempt, middle

CLIENTS: Final = 64
STEPS: Final = """
    steps:
      user: {upstream: s0, path: /user}
      orders: {upstream: s1, path: /orders}
      weather: {upstream: s2, path: /weather}"""
MODES: Final = {"off": "false", "relaxed": "true", "required": "{durability: required}"}
RESIDENT: Final = Path("/proc/self/statm")


def document(services: list[int]) -> str:
    """Workload A three times, once for each journal mode."""
    policies = "concurrency: {limit: 2048, queue: 2048}, retry: {attempts: 3}, breaker: {}, pool: {max_idle: 2048}"
    upstreams = "\n".join(f'  s{number}: {{url: "http://127.0.0.1:{port}", {policies}}}' for number, port in enumerate(services[:3]))
    endpoints = "\n".join(f"  - path: /{mode}{STEPS}\n    journal: {rule}" for mode, rule in MODES.items())
    return f"version: 1\ndefaults: {{timeout: 5s}}\nupstreams:\n{upstreams}\nendpoints:\n{endpoints}\njournal: {{min_free: 0}}\n"


def commits(port: int) -> float:
    """How many groups of records the gateway has written to disk, each with one fsync."""
    _, text = get(port, "/metrics")
    return next(float(line.split()[-1]) for line in text.decode().splitlines() if line.startswith("anabranch_journal_commits_total "))


def compare(seconds: float, rounds: int) -> None:
    """Print the figures of the three paths and their ratios."""
    cores = Cores.of(os.sched_getaffinity(0))
    with (
        tempfile.TemporaryDirectory(dir=".") as name,
        process([sys.executable, "-m", "bench.upstream"], cores=cores.load, stdout=subprocess.PIPE) as services,
    ):
        folder = Path(name)
        assert services.stdout is not None
        (folder / "gateway.yaml").write_text(document(json.loads(services.stdout.readline())))
        port = free_port()
        environment = {"ANABRANCH_PORT": str(port), "ANABRANCH_JOURNAL_PATH": str(folder / "journal"), "ANABRANCH_ACCESS_LOG": "off"}
        log = folder / "gateway.log"
        command = [sys.executable, "-m", "anabranch", "run", str(folder / "gateway.yaml")]
        with log.open("wb") as errors, process(command, cores=cores.server, environment=environment, stderr=errors) as gateway:
            length = len(wait_until_up("the gateway", gateway, port, "/off", log, 30))
            trials: dict[str, list[Trial]] = {mode: [] for mode in MODES}
            fsyncs = dict.fromkeys(MODES, 0.0)

            def measure(mode: str, rate: float | None = None) -> Trial:
                job = Job(
                    port=port, paths=[f"/{mode}"], length=length, clients=CLIENTS, warmup_s=0.5, seconds=seconds, rate=rate, pid=gateway.pid
                )
                trial = attempt(job, cores, has_wrk=False)
                wait_until_idle(gateway.pid, 5.0)
                return trial

            for _ in range(rounds):
                for mode in MODES:
                    before = commits(port)
                    trials[mode].append(measure(mode))
                    fsyncs[mode] += commits(port) - before
            show(trials, fsyncs)
            rate = middle(trials["off"]).requests_per_s / 2
            show_at(rate, {mode: [] for mode in MODES}, measure, rounds)


def show(trials: dict[str, list[Trial]], fsyncs: dict[str, float]) -> None:
    off = middle(trials["off"])
    print(
        f"{'journal':<9} {'requests/s':>11} {'CPU us':>8} {'req/CPU s':>10} {'p50 ms':>8} {'p99 ms':>8} {'fsyncs':>8} {'requests/fsync':>15} errors"
    )
    for mode, of in trials.items():
        found = middle(of)
        share = median(before.cpu_us / after.cpu_us for before, after in zip(trials["off"], of, strict=True))
        groups = f"{found.sent / fsyncs[mode]:.1f}" if fsyncs[mode] else "-"
        print(
            f"{mode:<9} {found.requests_per_s:>11,.0f} {found.cpu_us:>8.0f} {share:>10.1%} {found.p50_ms:>8.2f} {found.p99_ms:>8.2f} "
            f"{fsyncs[mode]:>8,.0f} {groups:>15} {found.errors or 'none'}"
        )
    required = middle(trials["required"])
    print(f"relaxed: {longer(trials):+.2f} ms at p99 (target: at most +2 ms); target for requests per CPU second: at least 85%")
    print(f"required: {required.requests_per_s / off.requests_per_s:.0%} of the requests/s of off (target: at least 50%)")


def show_at(rate: float, trials: dict[str, list[Trial]], measure: Callable[[str, float], Trial], rounds: int) -> None:
    """Measure the modes in turn at this rate, and print the latencies."""
    for _ in range(rounds):
        for mode, of in trials.items():
            of.append(measure(mode, rate))
    print(f"\nat {rate:,.0f} requests/s\n{'journal':<9} {'p50 ms':>8} {'p99 ms':>8} {'generator late':>15} errors")
    for mode, of in trials.items():
        found = middle(of)
        print(f"{mode:<9} {found.p50_ms:>8.2f} {found.p99_ms:>8.2f} {found.lag_ms:>15.2f} {found.errors or 'none'}")
    print(f"relaxed: {longer(trials):+.2f} ms at p99 (target: at most +2 ms)")


def longer(trials: dict[str, list[Trial]]) -> float:
    """How much p99 grows with `relaxed`, in milliseconds: the median over the rounds."""
    return median(after.p99_ms - before.p99_ms for before, after in zip(trials["off"], trials["relaxed"], strict=True))


def resident_mib() -> float:
    return int(RESIDENT.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def example(number: int, time_: datetime) -> Record:
    """A record like those of workload A, for one of ten endpoints."""
    steps = [
        Step(name=name, upstream=name, method="GET", target=f"/{name}", status=200, attempts=1, elapsed_ms=1.0 + number % 7)
        for name in ("user", "orders", "weather")
    ]
    body = b'{"user":{"id":%d,"name":"Ada"},"orders":[{"sku":"A-%d","price":12.50}],"weather":{"temperature":%d.5}}' % (
        number, number % 1000, number % 40,
    )  # fmt: skip
    return Record(
        v=VERSION, id=str(uuid7()), time=time_, endpoint=f"get_{number % 10}", plan="0123456789abcdef",
        status=503 if number % 100 == 0 else 200, complete=number % 50 != 0, elapsed_ms=2.0 + number % 97,
        request=RecordedRequest(id=str(number), method="GET", path=f"/things/{number}"), steps=steps, body=kept(body + b" " * 600, is_json=True),
    )  # fmt: skip


async def write(folder: Path, count: int) -> None:
    """Write a day's records and print time and memory."""
    began = time.perf_counter()
    start = datetime.now(UTC) - timedelta(days=1)
    step = timedelta(days=1) / count
    lowest = highest = 0.0
    async with Journal(Config(on_full="wait", min_free=0), folder=folder) as journal:
        for number in range(count):
            record = example(number, start + number * step)
            await journal.put(encode(record), record.time, time.monotonic() + 60)
            if number % 64 == 0:
                await asyncio.sleep(0)
            if number % (count // 20) == 0 and number >= count // 10:
                now = resident_mib()
                lowest, highest = min(lowest or now, now), max(highest, now)
        counters = journal.counters
    seconds = time.perf_counter() - began
    assert counters.written == count, counters
    segments = listed(folder)
    print(f"written: {count:,} records, {counters.written_bytes / 2**20:,.0f} MiB in {counters.commits:,} commits, {seconds:.1f} s")
    print(f"on disk: {len(segments)} segments, {sum(segment.size_bytes for segment in segments) / 2**20:,.0f} MiB")
    print(f"memory of the writer after the first tenth: {lowest:.0f} to {highest:.0f} MiB")


def timed(what: str, work: Callable[[], object]) -> None:
    before = resident_mib()
    began = time.perf_counter()
    result = work()
    print(f"{what}: {result}, {time.perf_counter() - began:.1f} s, memory {before:.0f} to {resident_mib():.0f} MiB")


def read(folder: Path, count: int) -> None:
    """Read all records in each supported way and print the times."""

    def stats() -> str:
        found = statistics(lines(folder))
        assert sum(of.records for of in found.values()) == count
        return f"{len(found)} endpoints"

    def export() -> str:
        tally = Tally()
        with Path(os.devnull).open("wb") as out:
            out.writelines(line for _, line in lines(folder, Filter(endpoints=frozenset({"get_3"}), slower_than_ms=50.0), tally))
        return f"{tally.records:,} records"

    def hour() -> str:
        middle_of_day = datetime.now(UTC) - timedelta(hours=12)
        tally = Tally()
        for _ in lines(folder, Filter(since=middle_of_day, until=middle_of_day + timedelta(hours=1)), tally):
            pass
        return f"{tally.records:,} records"

    def verified() -> str:
        verdicts = [verify(segment) for segment in listed(folder)]
        assert all(verdict.is_sound for verdict in verdicts)
        return f"{sum(verdict.records for verdict in verdicts):,} sound records"

    timed("stats", stats)
    timed("export of one endpoint, slow ones", export)
    timed("export of one hour of the day", hour)
    timed("verify", verified)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, help="instead, write and read this many records")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=9, help="rounds; the three modes take turns, and ratios are medians over the rounds")
    options = parser.parse_args()
    if options.records is None:
        compare(options.seconds, options.rounds)
        return
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name, "journal")
        uvloop.run(write(folder, options.records))
        read(folder, options.records)


if __name__ == "__main__":
    main()
