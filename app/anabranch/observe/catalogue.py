"""Every metric by name: its kind, its labels and what it means. What is exposed, documented and asked for by dashboards is checked against it.

`python -m anabranch.observe.catalogue docs/metrics.md` writes the table of the documentation; a test fails when it is stale.
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

MetricKind = Literal["counter", "gauge", "histogram", "info"]

MARK: Final = "<!-- what follows is made by `make docs` -->"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric family. `name`: without what its kind adds to it (`_total`, `_bucket`, `_info`); the prefix stands in it."""

    name: str
    kind: MetricKind
    labels: tuple[str, ...]
    meaning: str

    @property
    def sample(self) -> str:
        """The name that queries use."""
        return self.name + {"counter": "_total", "gauge": "", "histogram": "_bucket", "info": "_info"}[self.kind]


def _metric(kind: MetricKind, name: str, labels: str, meaning: str) -> Metric:
    return Metric(name=f"anabranch_{name}", kind=kind, labels=tuple(labels.split()), meaning=meaning)


REQUESTS: Final = _metric(
    "counter", "requests", "endpoint status complete",
    "Requests that are over. `endpoint`: its name, the path template of a route in Python, or `none`; `status`: as sent, 499 when the client "
    "had gone; `complete`: `true`, `false` when a step failed, `none` when no step ran.",
)  # fmt: skip
REQUEST_DURATION: Final = _metric(
    "histogram", "request_duration_seconds", "endpoint class complete",
    "From the head of a request to the last byte of its answer. `class`: `2xx` to `5xx`. In OpenMetrics with exemplars: `trace_id`.",
)  # fmt: skip
RESPONSE_BYTES: Final = _metric("counter", "response_bytes", "endpoint", "Bytes of the bodies sent.")
IN_FLIGHT: Final = _metric("gauge", "requests_in_flight", "", "Requests to endpoints that are being answered now.")
STEPS: Final = _metric(
    "counter", "steps", "endpoint step upstream reason",
    "Steps that are over. `upstream`: empty for a compute; `reason`: `ok`, or the code of the failure as in /problems/.",
)  # fmt: skip
STEP_DURATION: Final = _metric(
    "histogram", "step_duration_seconds", "endpoint step", "From a step's start to its end, retries and queues in it."
)
ATTEMPTS: Final = _metric(
    "counter",
    "attempts",
    "upstream reason",
    "Exchanges that ended. `reason`: the status of the answer, the code of the failure, or `cancelled`.",
)
ATTEMPT_DURATION: Final = _metric("histogram", "attempt_duration_seconds", "upstream", "How long exchanges took, connecting included.")
QUEUE_WAIT: Final = _metric(
    "histogram", "queue_wait_seconds", "upstream", "How long calls that found no free place waited in the bulkhead's queue."
)
REJECTIONS: Final = _metric("counter", "rejections", "upstream reason", "Calls turned away before anything was sent.")
RETRIES: Final = _metric("counter", "retries", "upstream reason", "Further attempts. `reason`: what the attempt before ended with.")
RETRIES_DENIED: Final = _metric(
    "counter", "retries_denied", "upstream reason", "Failures that stayed final for want of budget, time or places."
)
HEDGES: Final = _metric("counter", "hedges", "upstream", "Second attempts begun beside a slow first one.")
HEDGES_WON: Final = _metric("counter", "hedges_won", "upstream", "Second attempts that answered first.")
HEDGES_DENIED: Final = _metric("counter", "hedges_denied", "upstream reason", "Second attempts not begun.")
COALESCED: Final = _metric(
    "counter", "coalesced", "upstream reason", "Calls that joined an exchange under way instead of making their own."
)
STALE: Final = _metric(
    "counter", "stale_answers", "upstream reason", "Failed calls that were answered with an earlier answer. `reason`: the failure."
)
LIMIT_CHANGES: Final = _metric("counter", "limit_changes", "upstream", "Changes of an adaptive limit.")
BREAKER_CHANGES: Final = _metric("counter", "breaker_changes", "upstream state", "Times a breaker entered a state.")
BREAKER_STATE: Final = _metric("gauge", "breaker_state", "upstream address", "0 closed, 1 half open, 2 open.")
EJECTIONS: Final = _metric("counter", "ejections", "upstream reason", "Addresses taken out as outliers.")
RESTORATIONS: Final = _metric("counter", "restorations", "upstream", "Ejected addresses that came back.")
EJECTED: Final = _metric("gauge", "address_ejected", "upstream address", "1 while the address is taken out.")
RESOLUTIONS: Final = _metric(
    "counter", "address_changes", "upstream reason", "Times the addresses changed, or a name could not be resolved."
)
TOKENS: Final = _metric("counter", "tokens", "upstream reason", "Fetches of an OAuth2 token.")
BULKHEAD_IN_USE: Final = _metric("gauge", "bulkhead_in_use", "upstream", "Places taken: exchanges under way.")
BULKHEAD_QUEUED: Final = _metric("gauge", "bulkhead_queued", "upstream", "Calls that wait for a place.")
BULKHEAD_LIMIT: Final = _metric("gauge", "bulkhead_limit", "upstream", "Places there are; moves when the limit is adaptive.")
CONNECTIONS_OPEN: Final = _metric("gauge", "connections_open", "upstream", "Open connections, idle ones included.")
CONNECTIONS_IDLE: Final = _metric("gauge", "connections_idle", "upstream", "Kept-alive connections that nobody uses.")
LOOP_LAG: Final = _metric(
    "histogram", "event_loop_lag_seconds", "", "How late a timer of 250 ms came: how long something kept the event loop."
)
REFUSED: Final = _metric(
    "counter", "refused_connections", "reason",
    "Connections closed because of what came before it was a request, or of a body that is none. `reason`: `malformed_request` (400), "
    "`head_timeout` (408), `head_too_large` (431). These requests are in no other metric, unless their body was at fault.",
)  # fmt: skip
LOG_LINES_LOST: Final = _metric(
    "counter", "log_lines_lost", "", "Lines of the log that could not be written: the reader has gone or the disk is full."
)
SPANS: Final = _metric("counter", "spans", "result", "Spans handed to the exporter: `ok`, or `failed` when the receiver did not take them.")
BUILD: Final = _metric("info", "build", "version python", "What runs: always 1.")
STARTED: Final = _metric("gauge", "start_time_seconds", "", "When the process began to serve, as seconds since 1970.")
DOCUMENT: Final = _metric("gauge", "endpoints", "", "Endpoints of the document in force.")

RELOADS: Final = _metric("counter", "reloads", "result", "Reloads of the document: `ok` or `failed`.")
RELOAD_FAILED: Final = _metric(
    "gauge", "reload_failed", "", "1 while the document on the disk is not the one in force, because it is not usable."
)
GENERATION: Final = _metric(
    "gauge", "document_generation", "", "1 for the document that the process started with, one more with each that took over."
)
LOADED: Final = _metric("gauge", "document_loaded_seconds", "", "When the document in force was loaded, as seconds since 1970.")
RETIRING: Final = _metric("gauge", "services_retiring", "", "Documents that were replaced and still have requests.")

OWN: Final = (
    REQUESTS, REQUEST_DURATION, RESPONSE_BYTES, IN_FLIGHT, STEPS, STEP_DURATION, ATTEMPTS, ATTEMPT_DURATION, QUEUE_WAIT, REJECTIONS, RETRIES,
    RETRIES_DENIED, HEDGES, HEDGES_WON, HEDGES_DENIED, COALESCED, STALE, LIMIT_CHANGES, BREAKER_CHANGES, BREAKER_STATE, EJECTIONS, RESTORATIONS,
    EJECTED, RESOLUTIONS, TOKENS, BULKHEAD_IN_USE, BULKHEAD_QUEUED, BULKHEAD_LIMIT, CONNECTIONS_OPEN, CONNECTIONS_IDLE, LOOP_LAG,
    REFUSED, LOG_LINES_LOST, SPANS, BUILD, STARTED, DOCUMENT, RELOADS, RELOAD_FAILED, GENERATION,
    LOADED, RETIRING,
)  # fmt: skip
"""What `Metrics` itself exposes."""

GATE_IN_USE: Final = _metric(
    "gauge", "gate_in_use", "endpoint", "Requests let in by a limit of requests. `endpoint`: empty for the whole gateway."
)
GATE_QUEUED: Final = _metric("gauge", "gate_queued", "endpoint", "Requests that wait for one of its places.")
GATE_LIMIT: Final = _metric("gauge", "gate_limit", "endpoint", "Its places.")
GATE_SHED: Final = _metric(
    "counter", "gate_shed", "endpoint", "Requests that it turned away with 503. Those of the whole gateway are in no other metric."
)

GATES: Final = (GATE_IN_USE, GATE_QUEUED, GATE_LIMIT, GATE_SHED)
"""What limits of requests register, where there are some."""

JOURNAL_QUEUE: Final = _metric("gauge", "journal_queue_records", "", "Records that wait or are being written.")
JOURNAL_QUEUE_BYTES: Final = _metric("gauge", "journal_queue_bytes", "", "Bytes of these.")
JOURNAL_LAG: Final = _metric("gauge", "journal_lag_seconds", "", "Age of the oldest record that waits to be written.")
JOURNAL_RECORDS: Final = _metric("counter", "journal_records", "", "Records put on the disk.")
JOURNAL_BYTES: Final = _metric("counter", "journal_bytes", "", "Bytes of these, before compression.")
JOURNAL_COMMITS: Final = _metric("counter", "journal_commits", "", "Groups of records put on the disk, each by one fsync.")
JOURNAL_DROPPED: Final = _metric(
    "counter",
    "journal_dropped",
    "reason",
    "Records given up. `reason`: `full` (relaxed: no room) or `refused` (required: their response was 503).",
)
JOURNAL_FAILURES: Final = _metric("counter", "journal_write_failures", "", "Attempts to write that failed.")
JOURNAL_DAMAGED: Final = _metric("counter", "journal_damaged_lines", "", "Lines that recovery found damaged.")
JOURNAL_TORN: Final = _metric("counter", "journal_torn_bytes", "", "Bytes of torn lines that recovery cut off.")
JOURNAL_WRITABLE: Final = _metric("gauge", "journal_writable", "", "0 while the journal cannot be written.")

SHIPPED: Final = _metric("counter", "journal_shipped", "sink", "Records that the sink took.")
SHIP_FAILURES: Final = _metric("counter", "journal_ship_failures", "sink", "Rounds of shipping that failed.")
SHIP_HEALTHY: Final = _metric("gauge", "journal_ship_healthy", "sink", "0 while nothing can be shipped to the sink.")

COMPUTE_WORKERS: Final = _metric("gauge", "compute_workers", "pool", "Jobs that may run at once.")
COMPUTE_RUNNING: Final = _metric("gauge", "compute_running", "pool", "Jobs that run.")
COMPUTE_QUEUED: Final = _metric("gauge", "compute_queued", "pool", "Jobs that wait for a worker.")
COMPUTE_STUCK: Final = _metric("gauge", "compute_stuck", "pool", "Workers that still run for a job whose time is over.")
COMPUTE_JOBS: Final = _metric(
    "counter", "compute_jobs", "pool result",
    "Jobs that are over. `result`: `ok`, `failed` (the hook raised), `timed_out`, `lost` (its worker died), `rejected` (never begun), `cancelled`.",
)  # fmt: skip
COMPUTE_RESTARTS: Final = _metric("counter", "compute_restarts", "pool", "Workers replaced, for whatever reason.")
COMPUTE_QUEUE_SECONDS: Final = _metric("counter", "compute_queue_seconds", "pool", "Time that jobs waited, added up.")
COMPUTE_RUN_SECONDS: Final = _metric("counter", "compute_run_seconds", "pool", "Time that jobs ran, added up.")

JOURNAL: Final = (
    JOURNAL_QUEUE, JOURNAL_QUEUE_BYTES, JOURNAL_LAG, JOURNAL_RECORDS, JOURNAL_BYTES, JOURNAL_COMMITS, JOURNAL_DROPPED, JOURNAL_FAILURES,
    JOURNAL_DAMAGED, JOURNAL_TORN, JOURNAL_WRITABLE, SHIPPED, SHIP_FAILURES, SHIP_HEALTHY,
)  # fmt: skip
"""What is told of the journal, where there is one. Its counters begin anew when the document is loaded again."""

COMPUTE: Final = (
    COMPUTE_WORKERS, COMPUTE_RUNNING, COMPUTE_QUEUED, COMPUTE_STUCK, COMPUTE_JOBS, COMPUTE_RESTARTS, COMPUTE_QUEUE_SECONDS,
    COMPUTE_RUN_SECONDS,
)  # fmt: skip
"""What is told of compute, where there are hooks. Its counters begin anew when the document is loaded again."""

ALL: Final = {metric.name: metric for metric in (*OWN, *GATES, *JOURNAL, *COMPUTE)}

# From prometheus-client's own collector, which reads /proc.
PROCESS: Final = (
    "process_virtual_memory_bytes", "process_resident_memory_bytes", "process_start_time_seconds", "process_cpu_seconds_total",
    "process_open_fds", "process_max_fds",
)  # fmt: skip


def markdown(metrics: Iterable[Metric] = tuple(ALL.values())) -> str:
    """The table of the documentation."""
    lines = ["| metric | kind | labels | meaning |", "| --- | --- | --- | --- |"]
    for metric in metrics:
        labels = " ".join(f"`{label}`" for label in metric.labels)
        name = metric.sample if metric.kind != "histogram" else metric.name
        lines.append(f"| `{name}` | {metric.kind} | {labels} | {metric.meaning} |")
    lines += [f"| `{name}` | process | | see prometheus-client |" for name in PROCESS]
    return "\n".join(lines) + "\n"


def rendered(page: str) -> str:
    """`page` with everything behind the mark made anew."""
    head, mark, _ = page.partition(MARK)
    return f"{head}{mark or MARK}\n\n{markdown()}"


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(rendered(target.read_text("utf-8")), "utf-8")
