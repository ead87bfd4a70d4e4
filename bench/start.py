"""Measures how long the command takes to start: `python -m bench.start` prints the table of docs/performance.md.

The rows take turns, so that other work on the machine slows all of them. `run` counts until the gateway announces itself.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

ROUNDS = 7
PLAIN = """
version: 1
upstreams: {flights: {url: "http://127.0.0.1:9"}}
endpoints:
  - {path: "/flights/{id}", method: GET, steps: {flight: {upstream: flights, path: "/flights/{path.id}"}}}
"""
FIRST = "python -c 'import fastapi'"


def rows(folder: Path) -> dict[str, list[str]]:
    document = folder / "gateway.yaml"
    document.write_text(PLAIN, "utf-8")
    anabranch = ["-m", "anabranch"]
    return {
        FIRST: ["-c", "import fastapi"],
        "anabranch --help": [*anabranch, "--help"],
        "anabranch check, one endpoint": [*anabranch, "check", str(document)],
        "anabranch check demo/gateway.yaml": [*anabranch, "check", "demo/gateway.yaml"],
        "anabranch run, one endpoint": [*anabranch, "run", str(document), "--port", "0"],
    }


def start(arguments: list[str], folder: Path) -> tuple[float, float]:
    """CPU and wall time in seconds until the process ends, or serves."""
    environment = {**os.environ, "ANABRANCH_JOURNAL_PATH": str(folder / "journal")}
    began = perf_counter()
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stderr is not None
        if "run" not in arguments:
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            return used.ru_utime + used.ru_stime, perf_counter() - began
        while b" serves " not in process.stderr.readline():
            assert process.poll() is None
        took = perf_counter() - began
        user, system = Path(f"/proc/{process.pid}/stat").read_text("ascii").rpartition(")")[2].split()[11:13]
        process.terminate()
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK"), took


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        chosen = rows(folder)
        taken: dict[str, list[tuple[float, float]]] = {row: [] for row in chosen}
        for _ in range(ROUNDS):
            for row, arguments in chosen.items():
                taken[row].append(start(arguments, folder))
    first = median([cpu for cpu, _ in taken[FIRST]])
    print("| start | CPU ms | wall ms | CPU, in imports of FastAPI |\n| --- | ---: | ---: | ---: |")
    for row, times in taken.items():
        cpu, wall = (median([time[index] for time in times]) for index in (0, 1))
        print(f"| `{row}` | {cpu * 1000:.0f} | {wall * 1000:.0f} | {cpu / first:.2f} |")


if __name__ == "__main__":
    main()
