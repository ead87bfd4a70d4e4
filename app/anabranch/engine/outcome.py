"""The outcome of a step and the result of a request."""

from time import time

from anabranch.core.backoff import retry_after_s
from anabranch.core.exchange import Answer, Request
from anabranch.errors import StepError, UpstreamStatus


def status_failure(answer: Answer) -> UpstreamStatus:
    """The failure for an answer that is not 2xx. Its `Retry-After` is passed on to the client."""
    retry_after = answer.header(b"retry-after")
    return UpstreamStatus(answer.status, retry_after_s=None if retry_after is None else retry_after_s(retry_after, unix_now=time()))


class Outcome:
    """The outcome of one step: a value or a failure, with timings.

    `raw`: the value as JSON text after shaping; None when the step failed, and then `failure` is set.
    `started_s`: seconds from the start of the request to the start of the step. `elapsed_s`: duration of the step. `queue_s`: part of it
    spent in a queue. `run_s`: for a compute, how long a worker had the job; None for a call, or when the job never started.
    `attempts`: exchanges started; 0 when the step was skipped or rejected. `status`: the upstream's status; None without an answer.
    `stale_age_s`: age of the stored answer used in place of a failed call; None when the answer is fresh.
    `is_large`: its body was too large for the event loop. `notes`: what the policies did, for explain. `request`, `answer`: as sent and received, kept only when the endpoint keeps records.
    """

    __slots__ = (
        "answer", "attempts", "elapsed_s", "failure", "is_large", "notes", "queue_s", "raw", "request", "run_s", "stale_age_s", "started_s", "status", "step", "upstream",
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
        self.is_large = False
        self.request: Request | None = None
        self.answer: Answer | None = None


class Result:
    """The result of one request.

    `outcomes`: in document order, without the steps that never finished because a required step failed. `body`: the merged response; None
    when the request ended with `failure`, and then `status` is that of the failure. `is_complete`: no step failed or has a stale answer.
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
