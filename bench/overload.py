"""What a gateway still gets done when it is asked for more than it can do, with a limit of requests under way and without one.

`python -m bench.overload`. The group of three small bodies (workload A). First five times as many clients as saturate it, which never pause, even
when they are turned away; then requests that are due at one, two and five times the rate that it can do, whatever it does. Each is compared
with what it gets done for just enough requests at once on as many connections: connections alone cost something, asked or not.
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
from typing import Final

from bench.load import LONGEST, Job
from bench.server import Cores, free_port, get, process, wait_until_up
from bench.trial import Trial, run

_ROOT: Final = Path(__file__).parent
_CLIENTS: Final = 64
_TIMES: Final = 5
_MANY: Final = 1024
_PATH: Final = "/a"
_LIMITS: Final = {"ANABRANCH_MAX_REQUESTS": "64", "ANABRANCH_MAX_WAITING": "256", "ANABRANCH_MAX_WAIT_S": "0.25"}
_PATIENCE_S: Final = 30.0


@contextlib.contextmanager
def services(cores: Cores) -> Iterator[list[int]]:
    """The ports of the services behind the gateway."""
    with process([sys.executable, "-m", "bench.upstream"], cores=cores.load, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        yield json.loads(child.stdout.readline())


@contextlib.contextmanager
def gateway(cores: Cores, ports: list[int], settings: dict[str, str], log: Path) -> Iterator[tuple[int, int]]:
    """A gateway on the workloads' document: its port and its process."""
    port = free_port()
    clean = {name: "" for name in os.environ if name.startswith("ANABRANCH_")}
    environment = {**clean, **{f"BENCH_SERVICE_{number}": f"http://127.0.0.1:{at}" for number, at in enumerate(ports)}, **settings}
    command = [sys.executable, "-m", "app", "run", str(_ROOT / "gateway.yaml"), "--port", str(port)]
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


def shown(name: str, trial: Trial, seconds: float, most: float) -> str:
    shed = trial.errors.get("status", 0) / seconds
    other = sum(count for kind, count in trial.errors.items() if kind != "status")
    cells = (
        name, f"{trial.requests_per_s:,.0f}", f"{trial.requests_per_s / most:.0%}", f"{shed:,.0f}", f"{other:,}", f"{trial.p50_ms:,.0f}",
        f"{trial.p99_ms:,.0f}", f"{trial.requests_per_s / trial.busy:,.0f}", f"{trial.busy:.0%}", f"{trial.robbed:.0%}", f"{trial.peak_mib:,.0f}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m bench.overload", description=(__doc__ or "").splitlines()[0])
    options.add_argument("--seconds", type=float, default=5.0, help="length of each measurement")
    seconds: float = options.parse_args().seconds
    cores = Cores.of(os.sched_getaffinity(0))
    heads = ("load", "good/s", "of the most", "shed/s", "failed", "p50 ms", "p99 ms", "good per CPU s", "busy", "robbed", "peak MiB")
    with tempfile.TemporaryDirectory() as folder, services(cores) as ports:
        for title, settings in (("With the limit", _LIMITS), ("Without it", {})):
            print(f"\n{title}:\n\n| {' | '.join(heads)} |\n| {' | '.join('---' for _ in heads)} |", flush=True)
            with gateway(cores, ports, settings, Path(folder, "gateway.log")) as (port, pid):
                for clients in (_CLIENTS * _TIMES, _MANY):
                    trial = measured(cores, port, pid, clients=clients, at_once=_CLIENTS, seconds=seconds)
                    most = trial.requests_per_s
                    print(shown(f"{clients:,} connections, {_CLIENTS} ask at once", trial, seconds, most), flush=True)
                    if clients != _MANY:
                        trial = measured(cores, port, pid, clients=clients, seconds=seconds)
                        print(shown(f"{clients:,} connections, all ask at once", trial, seconds, most), flush=True)
                        continue
                    for times in (1, 2, _TIMES):
                        trial = measured(cores, port, pid, clients=clients, rate=most * times, seconds=seconds)
                        print(shown(f"{clients:,} connections, {times} times that rate", trial, seconds, most), flush=True)


if __name__ == "__main__":
    main()
