"""What compute is asked to do, what it answers, and the shape that every pool has: thread, process and cluster alike.

Input and value are JSON text. Parsing, validating, calling and dumping happen where the function runs (`anabranch.compute.call`), so that the
event loop never touches a big value.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One call of a hook.

    `hook`: as `module:function`. `input`: JSON text of an object, the arguments by name. `deadline`: absolute, monotonic time. `step`: the
    step's name, for logs. `lane`: jobs of one lane are served in order, and the lanes of a pool by turns; the endpoint's name.
    `limit`: how many jobs of this endpoint's step may run at once in the pool; None: as many as there are workers.
    """

    hook: str
    input: bytes
    deadline: float
    step: str
    lane: str
    limit: int | None = None


class JobResult(NamedTuple):
    """`value`: JSON text. `queue_s`: waited for a worker. `run_s`: from being given to a worker until the value was back."""

    value: bytes
    queue_s: float
    run_s: float


class JobTimings:
    """What a pool writes down about a job that may fail. Made by the caller, so that it outlives an error.

    `attempts`: 1 once it was given to a worker. `queue_s`: waited for one. `run_s`: how long it had it; None when it never got one.
    """

    __slots__ = ("attempts", "queue_s", "run_s")

    def __init__(self) -> None:
        self.attempts = 0
        self.queue_s = 0.0
        self.run_s: float | None = None


class PoolCounters:
    """What a pool counts. Gauges: `workers` (that there can be), `running`, `queued` (jobs), `stuck` (workers that run for a job whose
    time is over). Totals: `done` (with a value), `failed` (the hook raised or its value was no use), `timed_out`, `lost` (the worker died),
    `rejected` (never started), `cancelled`, `restarts` (workers replaced, for whatever reason); `queue_s`, `run_s` (seconds, of all jobs).
    """

    __slots__ = (
        "cancelled", "done", "failed", "lost", "queue_s", "queued", "rejected", "restarts", "run_s", "running", "stuck", "timed_out",
        "workers",
    )  # fmt: skip

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.running = 0
        self.queued = 0
        self.stuck = 0
        self.done = 0
        self.failed = 0
        self.timed_out = 0
        self.lost = 0
        self.rejected = 0
        self.cancelled = 0
        self.restarts = 0
        self.queue_s = 0.0
        self.run_s = 0.0


class ComputePool(Protocol):
    """Runs jobs. Opened before the first one, closed once after the last."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> Literal["thread", "process", "dask"]: ...

    @property
    def counters(self) -> PoolCounters: ...

    async def run(self, job: Job, clock: JobTimings) -> JobResult:
        """Run one job, no later than its deadline. `clock` is written also when it fails.

        Raises only children of ComputeError (it was started: ComputeFailed, ComputeInvalidInput, ComputeInvalidResult, ComputeTimeout,
        WorkerLost) and of RejectedError (it was not: ComputePoolFull, ComputePoolDown, DeadlineExceeded).
        Cancellation: the job never starts, or what runs is stopped where that can be done, and otherwise left to end unheard.
        """
        ...

    async def aopen(self) -> None:
        """Start workers. Returns when the pool can take jobs."""
        ...

    async def aclose(self) -> None:
        """Stop. Jobs that run are ended as cancellation does."""
        ...
