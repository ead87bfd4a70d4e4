"""Measures the cost of observability: CPU time for one request of three steps, by enabled feature. `python -m bench.observers`.

Without sockets: policy stacks over a transport that answers at once, and observers called as the data plane calls them. The budget for
metrics is 6 us a request; log lines cost extra, for logged requests only.
"""

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic, process_time

import uvloop
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from anabranch.config.model import Document, Upstream
from anabranch.config.problems import Problems
from anabranch.core.exchange import Address
from anabranch.engine.event import ResponseEvent, ResponseObserver
from anabranch.engine.outcome import Outcome, Result
from anabranch.observe.logs import Logs
from anabranch.observe.observation import Observation
from anabranch.observe.sink import LineSink
from anabranch.observe.tracing import Tracing
from anabranch.plan.compile import compile_document
from anabranch.plan.model import EndpointPlan, StepPlan
from anabranch.plan.upstream import compile_upstream
from anabranch.policy.call import Call
from anabranch.policy.event import Observer
from anabranch.policy.stack import build_stack
from anabranch.policy.tools import Tools
from bench.layers import ONE, REQUEST, Instant

ROUNDS = 7
REQUESTS = 5_000
TRACEPARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
STEPS = {name: {"upstream": "a", "path": f"/{name}"} for name in ("one", "two", "three")}
DOCUMENT = {"version": 1, "upstreams": {"a": {"url": ONE}}, "endpoints": [{"path": "/x", "steps": STEPS}]}


def result() -> Result:
    outcomes = []
    for name in STEPS:
        outcome = Outcome(name, "a")
        outcome.raw, outcome.elapsed_s, outcome.attempts, outcome.status = b"{}", 0.0021, 1, 200
        outcomes.append(outcome)
    return Result(outcomes=outcomes, status=200, body=b"{}", is_complete=True)


async def of_calls(observer: Observer | None) -> float:
    """CPU seconds of the three calls of a request; the best of ROUNDS."""
    upstream = compile_upstream("a", Upstream.model_validate({"url": ONE}))
    stack = build_stack(upstream, Tools(transport=Instant(), clock=monotonic, random=random.random, observer=observer))
    best = float("inf")
    for _ in range(ROUNDS):
        calls = [Call(REQUEST, deadline=monotonic() + 60, is_idempotent=True, is_required=True) for _ in range(3 * REQUESTS)]
        began = process_time()
        for call in calls:
            await stack.call(call)
        best = min(best, process_time() - began)
    await stack.aclose()
    return best / REQUESTS


def of_requests(observe: ResponseObserver | None, plan: EndpointPlan, traceparent: bytes | None) -> float:
    """CPU seconds to report one request, including the creation of the event."""
    made = result()
    best = float("inf")
    for _ in range(ROUNDS):
        began = process_time()
        for _ in range(REQUESTS):
            if observe is not None:
                observe(ResponseEvent(plan.name, "GET", "/x", 200, None, True, 0.004, made, b"r-1", traceparent, 3000))
        best = min(best, process_time() - began)
    return best / REQUESTS


class Nowhere(SpanExporter):
    """Discards every span."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


async def of_traces(plan: EndpointPlan, ratio: float) -> float:
    """CPU seconds for the spans of one request, its three steps and three exchanges, including the exporter's thread."""
    made = result()
    event = ResponseEvent(plan.name, "GET", "/x", 200, None, True, 0.004, made, b"r-1", None, 3000)
    async with Tracing(Nowhere(), ratio=ratio) as tracing:
        transport = tracing.transport(Instant())
        address = Address.parse(ONE)

        async def run(step: StepPlan) -> Outcome:
            await transport.exchange(REQUEST, address, 0)
            return made.outcomes[step.index]

        best = float("inf")
        for _ in range(ROUNDS):
            began = process_time()
            for _ in range(REQUESTS // 5):
                span = tracing.begin(plan.name, plan.path, "GET", "/x", {})
                for step in plan.steps:
                    await tracing.around(step, run)
                span.end(event)
            best = min(best, process_time() - began)
    return best / (REQUESTS // 5)


async def main() -> None:
    plan = compile_document(Document.model_validate(DOCUMENT), Problems()).endpoints[0]
    with Path(os.devnull).open("wb") as nothing:
        logs = Logs("json", sink=LineSink(nothing.fileno()))
        cases: dict[str, tuple[Callable[[], Observation] | None, bytes | None]] = {
            "nothing": (None, None),
            "metrics": (lambda: Observation(logs, access="off"), None),
            "metrics, request with a trace": (lambda: Observation(logs, access="off"), TRACEPARENT),
            "metrics, execution times": (lambda: Observation(logs, access="off", has_timings=True), None),
            "metrics, execution times, errors logged": (lambda: Observation(logs, has_timings=True), None),
            "every request logged": (lambda: Observation(logs, access="all", has_metrics=False), None),
        }
        base = await of_calls(None) + of_requests(None, plan, None)
        for label, (make, traceparent) in cases.items():
            observation = None if make is None else make()
            if observation is None:
                seconds = base
            else:
                observe = None if observation.observer_of is None else observation.observer_of(plan)
                seconds = await of_calls(observation.hooks.policy) + of_requests(observe, plan, traceparent)
            print(f"{label:42} {(seconds - base) * 1e6:6.2f} us")
        for label, ratio in (("every request traced", 1.0), ("tracing on, this request not sampled", 0.0)):
            print(f"{label:42} {await of_traces(plan, ratio) * 1e6:6.2f} us")


if __name__ == "__main__":
    uvloop.run(main())
