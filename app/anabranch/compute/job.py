"""A job for a compute pool, its result, and the interface of every pool: thread, process and cluster.

Input and value are JSON text. Parsing, validating, calling and serialising happen where the function runs (`anabranch.compute.call`), so
that the event loop never handles a large value.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol

from anabranch.core.metric import Sample, metric


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One call of a hook.

    `hook`: as `module:function`. `input`: JSON text of an object with the arguments by name. `deadline`: absolute, monotonic time.
    `step`: the step's name. `lane`: the endpoint and step, as `endpoint.step`; jobs of one lane run in order, and the lanes of a pool are
    served in turn. `limit`: how many jobs of the lane may run at once; None: as many as there are workers. `order`: for work of the gateway
    itself, which only worker processes do: what `hook` is to do with `input`, which then is any bytes; "" for a call of a hook.
    """

    hook: str
    input: bytes
    deadline: float
    step: str
    lane: str
    limit: int | None = None
    order: str = ""


class JobResult(NamedTuple):
    """`value`: JSON text. `queue_s`: time spent waiting for a worker. `run_s`: from sending the job to a worker until the value arrived."""

    value: bytes
    queue_s: float
    run_s: float


class JobTimings:
    """Timings of a job, written by the pool. Created by the caller, so that they are available after an error too.

    `attempts`: 1 once the job has a worker, else 0. `queue_s`: time spent waiting for a worker. `run_s`: how long the job had a worker; None
    if it never got one.
    """

    __slots__ = ("attempts", "queue_s", "run_s")

    def __init__(self) -> None:
        self.attempts = 0
        self.queue_s = 0.0
        self.run_s: float | None = None


COMPUTE_WORKERS: Final = metric("gauge", "compute_workers", "pool", "Maximum number of concurrent jobs.")
COMPUTE_RUNNING: Final = metric("gauge", "compute_running", "pool", "Running jobs.")
COMPUTE_QUEUED: Final = metric("gauge", "compute_queued", "pool", "Jobs waiting for a worker.")
COMPUTE_STUCK: Final = metric("gauge", "compute_stuck", "pool", "Workers still running a job that has timed out.")
COMPUTE_JOBS: Final = metric(
    "counter", "compute_jobs", "pool result",
    "Finished jobs. `result`: `ok`, `refused` (the hook raised Refused), `failed` (it raised anything else), `timed_out`, `lost` (its worker died), `rejected` (never started), `cancelled`.",
)  # fmt: skip
COMPUTE_RESTARTS: Final = metric("counter", "compute_restarts", "pool", "Workers replaced, for any reason.")
COMPUTE_QUEUE_SECONDS: Final = metric("counter", "compute_queue_seconds", "pool", "Total time that jobs waited.")
COMPUTE_RUN_SECONDS: Final = metric("counter", "compute_run_seconds", "pool", "Total time that jobs ran.")


class PoolCounters:
    """The counters of a pool.

    Gauges: `workers` (maximum), `running` and `queued` (jobs), `stuck` (workers still busy with a job whose deadline has passed).
    Totals: `done` (with a value), `refused` (the hook raised Refused), `failed` (it raised anything else, or its input or result was invalid),
    `timed_out`, `lost` (the worker died), `rejected` (never started), `cancelled`, `restarts` (workers replaced, for any reason); `queue_s`, `run_s` (seconds, over all jobs).
    """

    __slots__ = (
        "cancelled", "done", "failed", "lost", "queue_s", "queued", "refused", "rejected", "restarts", "run_s", "running", "stuck", "timed_out",
        "workers",
    )  # fmt: skip

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.running = 0
        self.queued = 0
        self.stuck = 0
        self.done = 0
        self.refused = 0
        self.failed = 0
        self.timed_out = 0
        self.lost = 0
        self.rejected = 0
        self.cancelled = 0
        self.restarts = 0
        self.queue_s = 0.0
        self.run_s = 0.0

    def samples(self, pool: str) -> Iterator[Sample]:
        """See `core.metric.Sampled`. The counters restart at zero when the document is reloaded."""
        yield Sample(COMPUTE_WORKERS, (pool,), self.workers)
        yield Sample(COMPUTE_RUNNING, (pool,), self.running)
        yield Sample(COMPUTE_QUEUED, (pool,), self.queued)
        yield Sample(COMPUTE_STUCK, (pool,), self.stuck)
        yield Sample(COMPUTE_JOBS, (pool, "ok"), self.done)
        for result in ("refused", "failed", "timed_out", "lost", "rejected", "cancelled"):
            yield Sample(COMPUTE_JOBS, (pool, result), getattr(self, result))
        yield Sample(COMPUTE_RESTARTS, (pool,), self.restarts)
        yield Sample(COMPUTE_QUEUE_SECONDS, (pool,), self.queue_s)
        yield Sample(COMPUTE_RUN_SECONDS, (pool,), self.run_s)


class ComputePool(Protocol):
    """Runs jobs. Opened before the first one, closed once after the last."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> Literal["thread", "process", "dask"]: ...

    @property
    def counters(self) -> PoolCounters: ...

    async def run(self, job: Job, timings: JobTimings) -> JobResult:
        """Run one job by its deadline. Updates `timings` even if the job fails.

        Raises only children of ComputeError (the job was started: ComputeRefused, ComputeFailed, ComputeInvalidInput, ComputeInvalidResult, ComputeTimeout,
        WorkerLost) and of RejectedError (it was not: ComputePoolFull, ComputePoolDown, DeadlineExceeded).
        Cancellation: a waiting job never starts. A running function is stopped if the pool can do that; otherwise its result is dropped.
        """
        ...

    async def aopen(self) -> None:
        """Start workers. Returns when the pool can take jobs."""
        ...

    async def aclose(self) -> None:
        """Stop the pool. Running jobs end as if cancelled."""
        ...
