"""Measures a gateway's goodput under overload, with and without a concurrency limit.

`python -m bench.overload`. The group of three small bodies (workload A). First a closed loop with five times as many clients as saturate
the gateway; they never pause, even when rejected. Then an open loop at one, two and five times the maximum rate. Each load is compared with
saturation on the same number of connections, because connections cost something even while idle.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Final

import msgspec

from bench.load import LONGEST, Job
from bench.server import Cores, free_port, get, process, wait_until_up
from bench.trial import Trial, middle, run

_ROOT: Final = Path(__file__).parent
_CLIENTS: Final = 64
_TIMES: Final = 5
_MANY: Final = 1024
_PATH: Final = "/a"
_LIMITS: Final = {"ANABRANCH_MAX_REQUESTS": "64", "ANABRANCH_MAX_WAITING": "256", "ANABRANCH_MAX_WAIT_S": "0.25"}
_PATIENCE_S: Final = 30.0


@contextlib.contextmanager
def services(cores: Cores) -> Iterator[list[int]]:
    """Start the services behind the gateway; yields their ports."""
    with process([sys.executable, "-m", "bench.upstream"], cores=cores.load, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        yield json.loads(child.stdout.readline())


@contextlib.contextmanager
def gateway(cores: Cores, ports: list[int], settings: dict[str, str], log: Path) -> Iterator[tuple[int, int]]:
    """Start a gateway with the workloads' document; yields its port and process id."""
    port = free_port()
    clean = {name: "" for name in os.environ if name.startswith("ANABRANCH_")}
    environment = {**clean, **{f"BENCH_SERVICE_{number}": f"http://127.0.0.1:{at}" for number, at in enumerate(ports)}, **settings}
    command = [sys.executable, "-m", "anabranch", "run", str(_ROOT / "gateway.yaml"), "--port", str(port)]
    with log.open("wb") as out, process(command, cores=cores.server, environment=environment, stderr=out) as child:
        wait_until_up("anabranch", child, port, _PATH, log, _PATIENCE_S)
        yield port, child.pid


def measured(
    cores: Cores, port: int, pid: int, *, clients: int, seconds: float, rate: float | None = None, at_once: int | None = None
) -> Trial:
    _, body = get(port, _PATH)
    job = Job(
        port=port, paths=[_PATH], length=len(body), clients=clients, warmup_s=1.0, seconds=seconds, rate=rate, at_once=at_once, pid=pid
    )
    return Trial.of(run("bench.load", [], job, cores=cores.load, seconds=1.0 + seconds * LONGEST))


class Load(msgspec.Struct, frozen=True):
    """One row. `at_once`: how many connections have a request in flight at a time, None: all. `times`: open loop at this multiple of the
    reference rate, which is that of the row with the same number of connections and `at_once` set; None: closed loop."""

    clients: int
    at_once: int | None = None
    times: int | None = None

    def __str__(self) -> str:
        how = f"{self.at_once or 'all'} ask at once" if self.times is None else f"{self.times} times that rate"
        return f"{self.clients:,} connections, {how}"


_LOADS: Final = (
    Load(_CLIENTS, at_once=_CLIENTS),
    Load(_CLIENTS * _TIMES, at_once=_CLIENTS),
    Load(_CLIENTS * _TIMES),
    Load(_MANY, at_once=_CLIENTS),
    Load(_MANY, times=1),
    Load(_MANY, times=2),
    Load(_MANY, times=_TIMES),
)


def shown(load: Load, trials: list[Trial], shares: list[float], seconds: float) -> str:
    """One row of the table. `shares`: of the reference rate, one for each trial."""
    trial = middle(trials)
    counted = seconds * len(trials)
    shed = trial.errors.get("status", 0) / counted
    other = sum(count for kind, count in trial.errors.items() if kind != "status")
    cells = (
        str(load), f"{trial.requests_per_s:,.0f}", f"{median(shares):.0%}", f"{shed:,.0f}", f"{other:,}", f"{trial.p50_ms:,.0f}",
        f"{trial.p99_ms:,.0f}", f"{trial.busy:.0%}", f"{trial.robbed:.0%}", f"{trial.peak_mib:,.0f}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m bench.overload", description=(__doc__ or "").splitlines()[0])
    options.add_argument("--seconds", type=float, default=2.0, help="length of each measurement")
    options.add_argument("--rounds", type=int, default=7, help="rounds; the loads take turns, and shares are medians over the rounds")
    parsed = options.parse_args()
    cores = Cores.of(os.sched_getaffinity(0))
    heads = ("load", "good/s", "of the most", "shed/s", "failed", "p50 ms", "p99 ms", "busy", "robbed", "peak MiB")
    with tempfile.TemporaryDirectory() as folder, services(cores) as ports:
        for title, settings in (("With the limit", _LIMITS), ("Without it", {})):
            with gateway(cores, ports, settings, Path(folder, "gateway.log")) as (port, pid):
                trials, shares = taken_in_turns(cores, port, pid, seconds=parsed.seconds, rounds=parsed.rounds)
            print(f"\n{title}:\n\n| {' | '.join(heads)} |\n| {' | '.join('---' for _ in heads)} |")
            for load in _LOADS:
                print(shown(load, trials[load], shares[load], parsed.seconds), flush=True)


def taken_in_turns(
    cores: Cores, port: int, pid: int, *, seconds: float, rounds: int
) -> tuple[dict[Load, list[Trial]], dict[Load, list[float]]]:
    """The trials of each load, and the share of the reference rate that each reached. The reference is the nearest row above with
    `at_once`."""
    trials: dict[Load, list[Trial]] = {load: [] for load in _LOADS}
    shares: dict[Load, list[float]] = {load: [] for load in _LOADS}
    for _ in range(rounds):
        most = 0.0
        for load in _LOADS:
            rate = None if load.times is None else most * load.times
            trial = measured(cores, port, pid, clients=load.clients, seconds=seconds, rate=rate, at_once=load.at_once)
            if load.at_once is not None:
                most = trial.requests_per_s
            trials[load].append(trial)
            shares[load].append(trial.requests_per_s / most)
    return trials, shares


if __name__ == "__main__":
    main()
