"""The shape of a compiled document. Immutable, all names resolved, all defaults filled in, ready to run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from anabranch.config import model as config
from anabranch.core.exchange import Request, StaleRule
from anabranch.jsontext.frame import MISSING, Frame
from anabranch.jsontext.order import Reading
from anabranch.jsontext.shape import DecodeMode

HeaderPairs = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterPlan:
    """One declared parameter.

    `read`: takes the texts that the client sent (one for each occurrence, percent-decoded) and returns the typed value, or raises
    ValueError with a sentence for the client. `slot`: where the value goes; None when no reference uses it.
    `default`: the typed value for an absent parameter; MISSING when there is none.
    """

    name: str
    location: str
    is_required: bool
    default: Any
    slot: int | None
    read: Callable[[list[str]], Any]
    source: config.Parameter


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyPlan:
    """The request body. `validate`: raises ValueError with a sentence for each fault found (args are the sentences); None when any
    JSON will do. `read`: fills the frame's slots from the body, which has been proven to be JSON in UTF-8."""

    is_required: bool
    max_size_bytes: int
    validate: Callable[[bytes], None] | None
    read: Callable[[bytes, Frame], None]
    source: config.Body | None


PoolKind = Literal["thread", "process", "dask"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputePlan:
    """What a compute step runs. `hook`: as `module:function`. `pool`, `kind`: where. `build`: makes the JSON text of an object, the
    arguments by name, of a frame; raises MissingReference.

    `lane`: the step among all that use the pool. `limit`: its jobs at once; None: as many as the pool has workers. `result_schema`: JSON
    Schema of the function's result, None when nothing is known about it.
    """

    hook: str
    pool: str
    kind: PoolKind
    lane: str
    limit: int | None
    build: Callable[[Frame], bytes]
    result_schema: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPlan:
    """A pool that some step uses. `hooks`: all that run in it."""

    name: str
    backend: config.ComputeBackend
    hooks: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """One step. `needs`, `dependents`: indexes of steps.

    `build`: makes the request from a frame, the client's header fields (lower-case names) and the fields that every upstream call of this
    request carries (request id, trace context); raises MissingReference.

    `read`: takes the body of a successful answer, fills the frame's slots, and returns the shaped value as JSON text; raises
    InvalidJSON or ShapeError. `fill_default`: fills the slots from the default when the step failed (None: its dependents are skipped).
    `default`: JSON text that stands in for a failed step. `timeout_s`: None: what is left of the deadline.

    `stale`: how a failed call may be answered; None: not at all.

    `compute`: None for a call. A compute has no upstream (""), no method and no `build`; its result is read as an answer's body is.
    """

    index: int
    name: str
    upstream: str
    method: str
    is_required: bool
    is_hidden: bool
    is_idempotent: bool
    is_coalesced: bool
    stale: StaleRule | None = None
    needs: tuple[int, ...]
    dependents: tuple[int, ...]
    timeout_s: float | None
    mode: DecodeMode
    build: Callable[[Frame, Mapping[bytes, bytes], HeaderPairs], Request]
    read: Callable[[bytes, Frame], bytes]
    default: bytes
    fill_default: Callable[[Frame], None] | None
    source: config.Step
    compute: ComputePlan | None = None
    reading: Reading | None = None
    large_from: int = 1 << 62
    """Bytes from which a body may be too large for the loop: to be read, or to be merged with others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponsePlan:
    """`assemble`: the response body from the steps' values (JSON text by step index; a failed step has its default) and the frame.
    `visible`: indexes of the steps that count when it is asked whether anything could be answered. `headers`: lower-case names."""

    assemble: Callable[[list[bytes], Frame], bytes]
    visible: tuple[int, ...]
    status: int
    headers: HeaderPairs
    merge_order: str = ""
    """How another process merges the visible steps (`anabranch.jsontext.order`); empty when the values are only placed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointPlan:
    """One endpoint, compiled. `segments`: the path split at `/`, a parameter as `{name}`. `new_frame()` starts a request's frame.
    `max_requests`: at once; None: no limit.

    `path_parameters`, `query_parameters`, `header_parameters`: the declared parameters by place, in document order (path parameters
    in the order of the segments, undeclared ones as strings).
    """

    name: str
    method: str
    path: str
    segments: tuple[str, ...]
    timeout_s: float
    max_requests: int | None
    path_parameters: tuple[ParameterPlan, ...]
    query_parameters: tuple[ParameterPlan, ...]
    header_parameters: tuple[ParameterPlan, ...]
    body: BodyPlan | None
    slot_count: int
    steps: tuple[StepPlan, ...]
    ready: tuple[int, ...]
    response: ResponsePlan
    source: config.Endpoint
    waiting: tuple[int, ...] = field(init=False)
    """How many steps each step waits for."""
    defaults: tuple[bytes, ...] = field(init=False)
    """What stands in for each step's value until it has one."""
    has_required: bool = field(init=False)
    is_recorded: bool = field(init=False)
    """Whether the journal wants to know what was sent."""
    keeps_answers: bool = field(init=False)
    """Whether it wants what came back as well."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "waiting", tuple(len(step.needs) for step in self.steps))
        object.__setattr__(self, "defaults", tuple(step.default for step in self.steps))
        object.__setattr__(self, "has_required", any(step.is_required for step in self.steps))
        journal = self.source.journal
        object.__setattr__(self, "is_recorded", journal is not False)
        object.__setattr__(self, "keeps_answers", not isinstance(journal, bool) and journal.bodies != "response")

    def new_frame(self) -> Frame:
        return [MISSING] * self.slot_count


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentPlan:
    """A whole document, compiled. `endpoints`: in document order. `pools`: those that some compute step uses, by name."""

    endpoints: tuple[EndpointPlan, ...]
    upstreams: dict[str, config.Upstream] = field(default_factory=dict)
    pools: dict[str, PoolPlan] = field(default_factory=dict)
    timeout_s: float = 2.0
    """Deadline of requests to routes in Python."""
    cors: config.CORS | None = None
    source: config.Document
