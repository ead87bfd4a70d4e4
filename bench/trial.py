"""A single measurement of a server, and the median of several."""

import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

import msgspec

from bench.gauge import Gauge, Usage, wait_until_idle
from bench.histogram import Histogram
from bench.load import LONGEST, Job, Result
from bench.server import Cores, StartError, process

_SPARE_S: Final = 30.0  # a generator that is this late is stuck

_REST_S: Final = 5.0  # wrk abandons its last requests

# wrk's own report has no p99.9 and no exact counts, so this script prints them.
_WRK_SCRIPT: Final = """
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\\n{"requests":%d,"duration_us":%d,"bytes":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d,"status":%d,',
    summary.requests, summary.duration, summary.bytes, e.connect, e.read, e.write, e.timeout, e.status))
  io.write(string.format('"p50":%f,"p99":%f,"p999":%f}\\n', latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
"""
_HEAD_BYTES: Final = 4_096  # the longest plausible response head


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one interval. `busy`: share of one core that the server used. `robbed`: share of the time that it waited for its core
    while other work used it. `sent`, `lag_ms`: of the generator, see `Result`."""

    requests_per_s: float
    cpu_us: float
    busy: float
    robbed: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    peak_mib: float
    errors: dict[str, int]
    sent: int
    lag_ms: float

    @classmethod
    def of(cls, result: Result) -> "Trial":
        """The figures of our own generator."""
        latencies = Histogram(result.buckets)
        p50_us, p99_us, p999_us = (latencies.percentile_us(percent) for percent in (50, 99, 99.9))
        return cls(
            requests_per_s=result.answered / result.seconds,
            cpu_us=per_request_us(result.cpu_s, result.answered),
            busy=result.cpu_s / result.seconds,
            robbed=result.waited_s / result.seconds,
            p50_ms=p50_us / 1e3,
            p99_ms=p99_us / 1e3,
            p999_ms=p999_us / 1e3,
            peak_mib=result.peak_bytes / 2**20,
            errors=result.errors,
            sent=result.sent,
            lag_ms=result.lag_us / 1e3,
        )


def per_request_us(cpu_s: float, requests: int) -> float:
    """CPU time of one request in microseconds; NaN without requests."""
    return cpu_s / requests * 1e6 if requests else math.nan


def middle(trials: Sequence[Trial]) -> Trial:
    """The median of each figure over the rounds; errors and requests are added up."""
    errors: Counter[str] = Counter()
    for trial in trials:
        errors.update(trial.errors)

    def of(name: str) -> float:
        values = [value for trial in trials if not math.isnan(value := float(getattr(trial, name)))]
        return median(values) if values else math.nan

    return Trial(
        requests_per_s=of("requests_per_s"),
        cpu_us=of("cpu_us"),
        busy=of("busy"),
        robbed=of("robbed"),
        p50_ms=of("p50_ms"),
        p99_ms=of("p99_ms"),
        p999_ms=of("p999_ms"),
        peak_mib=max(trial.peak_mib for trial in trials),
        errors=dict(errors),
        sent=sum(trial.sent for trial in trials),
        lag_ms=of("lag_ms"),
    )


def run(module: str, arguments: Sequence[str], job: msgspec.Struct, *, cores: frozenset[int], seconds: float) -> Result:
    """Run a generator module on `cores` with `job` on its standard input. Raises StartError when it fails."""
    with (
        tempfile.TemporaryFile() as errors,
        process(
            [sys.executable, "-m", module, *arguments],
            cores=cores,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        ) as child,
    ):
        try:
            output, _ = child.communicate(msgspec.json.encode(job), timeout=seconds + _SPARE_S)
        except subprocess.TimeoutExpired:
            raise StartError(f"{module} did not end in time") from None
        if child.returncode:
            errors.seek(0)
            raise StartError(f"{module} failed:\n{errors.read().decode(errors='replace')[-2_000:]}")
    return msgspec.json.decode(output, type=Result)


def attempt(job: Job, cores: Cores, *, has_wrk: bool) -> Trial:
    """Measure once, then wait until the server is idle. wrk measures closed loops on one path if `has_wrk`; our own generator measures the
    rest."""
    if has_wrk and job.rate is None and len(job.paths) == 1:
        trial = _with_wrk(job, cores)
    else:
        trial = Trial.of(run("bench.load", [], job, cores=cores.load, seconds=job.warmup_s + job.seconds * LONGEST))
    if job.pid is not None:
        wait_until_idle(job.pid, _REST_S)
    return trial


def is_wrk_installed() -> bool:
    """Whether wrk is on PATH."""
    return shutil.which("wrk") is not None


def _with_wrk(job: Job, cores: Cores) -> Trial:
    """Measure with wrk. It takes whole seconds, has no warm-up, and does not check bodies: their mean length is checked instead."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "report.lua")
        script.write_text(_WRK_SCRIPT)
        gauge = Gauge(job.pid) if job.pid is not None else None
        if gauge is not None:
            gauge.begin()
        counted = _wrk(job, cores, script, math.ceil(job.seconds))
        usage = gauge.end() if gauge is not None else None
    return wrk_trial(counted, job.length, usage or Usage(cpu_s=0.0, waited_s=0.0, peak_bytes=0))


def wrk_trial(counted: dict[str, float], length: int | None, usage: Usage) -> Trial:
    """The figures of wrk's output. `counted["requests"]` counts all answers, whatever their status."""
    wrong = int(counted["status"])
    answered = int(counted["requests"]) - wrong
    errors = {kind: int(counted[kind]) for kind in ("connect", "read", "write", "timeout", "status") if counted[kind]}
    mean_bytes = counted["bytes"] / counted["requests"] if counted["requests"] else 0.0
    if length is not None and not length < mean_bytes < length + _HEAD_BYTES:
        errors["length"] = answered
    seconds = counted["duration_us"] / 1e6
    return Trial(
        requests_per_s=answered / seconds,
        cpu_us=per_request_us(usage.cpu_s, answered),
        busy=usage.cpu_s / seconds,
        robbed=usage.waited_s / seconds,
        p50_ms=counted["p50"] / 1e3,
        p99_ms=counted["p99"] / 1e3,
        p999_ms=counted["p999"] / 1e3,
        peak_mib=usage.peak_bytes / 2**20,
        errors=errors,
        sent=int(counted["requests"]),
        lag_ms=0.0,
    )


def _wrk(job: Job, cores: Cores, script: Path, seconds: int) -> dict[str, float]:
    url = f"http://127.0.0.1:{job.port}{job.paths[0]}"
    command = ["wrk", "-t1", f"-c{job.clients}", f"-d{seconds}s", "--timeout", "15s", "-s", str(script), url]
    with process(command, cores=cores.load, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as child:
        try:
            output, _ = child.communicate(timeout=seconds + _SPARE_S)
        except subprocess.TimeoutExpired:
            raise StartError("wrk did not end in time") from None
    lines = [line for line in output.decode(errors="replace").splitlines() if line.startswith("{")]
    if child.returncode or not lines:
        raise StartError(f"wrk failed: {output.decode(errors='replace')[-500:]}")
    counted: dict[str, float] = json.loads(lines[-1])
    return counted
