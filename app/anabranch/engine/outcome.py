"""What steps and requests end with."""

from time import time

from anabranch.core.backoff import retry_after_s
from anabranch.core.exchange import Answer, Request
from anabranch.errors import StepError, UpstreamStatus


def refused(answer: Answer) -> UpstreamStatus:
    """The failure that an answer which is not 2xx stands for. What its `Retry-After` says goes on to the client."""
    asked = answer.header(b"retry-after")
    return UpstreamStatus(answer.status, retry_after_s=None if asked is None else retry_after_s(asked, unix_now=time()))


class Outcome:
    """What one step ended with.

    `raw`: its value as JSON text after shaping; None when it failed, and then `failure` says why.
    `started_s`: since the request began. `elapsed_s`: from then to the end. `queue_s`: how much of that it waited in a queue.
    `run_s`: of a compute, how long its worker was busy with it; None for a call, and where it never started.
    `attempts`: exchanges begun; 0 when it was skipped or rejected. `status`: of the upstream's answer; None when there was none.
    `stale_age_s`: how old the answer is that stood in for a failed call; None for an answer to this very call.
    `notes`: what the policies did, for explain. `request`, `answer`: what was sent and what came back, only when the endpoint keeps records.
    """

    __slots__ = (
        "answer", "attempts", "elapsed_s", "failure", "notes", "queue_s", "raw", "request", "run_s", "stale_age_s", "started_s", "status", "step", "upstream",
    )  # fmt: skip

    def __init__(self, step: str, upstream: str) -> None:
        self.step = step
        self.upstream = upstream
        self.raw: bytes | None = None
        self.failure: StepError | None = None
        self.started_s = 0.0
        self.elapsed_s = 0.0
        self.queue_s = 0.0
        self.run_s: float | None = None
        self.stale_age_s: float | None = None
        self.attempts = 0
        self.status: int | None = None
        self.notes: list[str] | None = None
        self.request: Request | None = None
        self.answer: Answer | None = None


class Result:
    """What a request ended with. `outcomes`: in document order; a step that never ran because a required one failed is not in it.

    `body`: the merged response; None when `failure` decides the response, and then `status` is its status.
    `is_complete`: no step failed, and none has an old answer.
    """

    __slots__ = ("body", "failure", "is_complete", "outcomes", "status")

    def __init__(
        self, *, outcomes: list[Outcome], status: int, body: bytes | None, is_complete: bool, failure: StepError | None = None
    ) -> None:
        self.outcomes = outcomes
        self.status = status
        self.body = body
        self.is_complete = is_complete
        self.failure = failure
