"""The data classes of a compiled document. Immutable, with all names resolved and all defaults filled in."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from anabranch.cache.memory import Bounds
from anabranch.config import model as config
from anabranch.core.rate import Rate
from anabranch.core.status import BODYLESS
from anabranch.jsontext.frame import MISSING, Frame
from anabranch.jsontext.order import Reading
from anabranch.jsontext.shape import DecodeMode
from anabranch.plan.names import Numbers
from anabranch.plan.parameters import Reader
from anabranch.plan.reference import Reference
from anabranch.plan.routes import Segments
from anabranch.plan.store import StorePlan
from anabranch.plan.upstream import UpstreamPlan

if TYPE_CHECKING:
    from anabranch.plan.access import AccessPlan
    from anabranch.plan.condition import Condition
    from anabranch.plan.each import EachPlan
    from anabranch.plan.into import IntoPlan
    from anabranch.plan.limits import LimitPlan
    from anabranch.plan.operation import OperationPlan
    from anabranch.plan.reuse import ReusePlan
    from anabranch.plan.rules import RulesPlan

HeaderPairs = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterPlan:
    """One declared parameter.

    `read`: takes the texts that the client sent (one for each occurrence or element, percent-decoded) and returns the value, or raises
    ValueError with a message for the client. `slot`: the slot of the value; None when no reference uses it.
    `default`: the value for an absent parameter; MISSING when there is none. `is_list`: its type is array. `segment`: index of its segment in the
    path; -1 outside of it. `field`: name of its header field, in lower case.
    """

    name: str
    location: str
    is_required: bool
    default: Any
    slot: int | None
    read: Reader
    source: config.Parameter
    is_list: bool = False
    segment: int = -1
    field: bytes = b""


@dataclass(frozen=True, slots=True)
class FieldPlan:
    """A declared field of a form. `kind`: what its text is read as: a type of JSON Schema, or `file`. `is_list`: it is an array of these."""

    kind: str
    is_list: bool

    @property
    def is_file(self) -> bool:
        return self.kind == "file"


BodyKind = Literal["json", "form", "multipart", "text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyPlan:
    """The request body. `kind`: what the client sends, `media_type`: its content type. `validate`: raises ValueError whose args are one message for
    each fault; None when any body is accepted. `read`: fills the frame's slots from a body that is known to be JSON in UTF-8. `fields`: the declared
    fields of a form. `files_slot`: of the fields that have files; None when no step sends files."""

    kind: BodyKind
    media_type: bytes
    is_required: bool
    max_size_bytes: int
    validate: Callable[[bytes], None] | None
    read: Callable[[bytes, Frame], None]
    source: config.Body | None
    fields: Mapping[str, FieldPlan] = field(default_factory=dict)
    files_slot: int | None = None


PoolKind = Literal["thread", "process", "dask"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPlan:
    """A pool that some step uses. `hooks`: all hooks that run in it."""

    name: str
    backend: config.ComputeBackend
    hooks: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """One step. `needs`, `dependents`: indexes of steps. `operation`: what it does. `when`: whether it runs; None: always.

    `read`: takes the result of the operation, fills the frame's slots, and returns the shaped value as JSON text; raises InvalidJSON or
    ShapeError. `fill_default`: fills the slots from the default when the step failed (None: its dependents are skipped).
    `default`: JSON text used as the value of a failed step. `timeout_s`: None: the time left until the deadline.

    `each`: for what it runs several times; None: it runs once. `needs`: of all steps that it waits for; `only_after`: of those whose failure does not matter to it. `references`: all that it has. `metadata`: what
    others refer to of the step itself: (`status`, `ok`, `code` or `headers`, name of the field, slot). `may_be_left_out`: for a reason of its own,
    such as a condition, or with a step that it needs.

    `fallback`: the step that runs when it has failed; -1: none. `stand_in`: reads the value of that step as its own, as `read` does. `members`: of an `any` step.
    `asks`: those of both that run only when they are asked for. `is_on_demand`: it is one of those. `is_only_stand_in`: for one step, and nothing else refers to it.
    `has_stand_in_role`: it may ask, or be asked. `upstream`: of the operation; "" for none.
    """

    index: int
    name: str
    operation: "OperationPlan"
    when: "Condition | None" = None
    is_required: bool
    is_hidden: bool
    needs: tuple[int, ...]
    dependents: tuple[int, ...]
    timeout_s: float | None
    mode: DecodeMode
    read: Callable[[bytes, Frame], bytes]
    default: bytes
    fill_default: Callable[[Frame], None] | None
    source: config.Step
    only_after: frozenset[int] = frozenset()
    references: tuple[Reference, ...] = ()
    metadata: tuple[tuple[str, str, int], ...] = ()
    reading: Reading | None = None
    large_from: int = 1 << 62
    """Size in bytes from which reading or merging a body may block the event loop for too long."""
    may_be_left_out: bool = False
    each: "EachPlan | None" = None
    fallback: int = -1
    members: tuple[int, ...] = ()
    stand_in: Callable[[bytes, Frame], bytes] | None = None
    asks: tuple[int, ...] = ()
    is_on_demand: bool = False
    is_only_stand_in: bool = False
    has_stand_in_role: bool = False
    upstream: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "upstream", self.operation.upstream)

    @property
    def worst_case_s(self) -> float:
        """The longest it can take by its own limits, in seconds; 0 when only the deadline limits it."""
        return self.operation.worst_case_s if self.timeout_s is None else self.timeout_s


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseField:
    """A header field of a response. `name`: lower case. `value`: None: `values` gives that of each of its lines, possibly of none. `when`: as in the
    document."""

    name: bytes
    when: Literal["always", "complete", "partial"]
    value: bytes | None = None
    values: Callable[[Frame], list[bytes]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FailuresRule:
    """How a response shows failed steps: as an array between `before` and `after`. `key`: of the response."""

    key: str
    before: bytes
    after: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressionPlan:
    """Compression for clients that accept it. `codings`: the preferred one first. `min_size_bytes`: of the bodies that are compressed."""

    codings: tuple[str, ...]
    min_size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponsePlan:
    """`assemble`: builds the response body from the steps' values (JSON text by step index; a failed step has its default) and the frame. With
    `failures` there is one more value behind them, `ABSENT` when nothing failed. `merged`: indexes of the values that it uses.

    `visible`: indexes of the steps that decide whether anything could be answered. `status`: unless `settle` gives another one; that raises StepError
    when the response is not possible. `status_of`: the reference that gives the status; None when it is fixed. `passing`: names of the steps whose
    service's answer becomes the response when it is a failure. `compression`: None: bodies are sent as they are. `reuse`: how responses may be kept;
    None: the gateway says nothing of it.
    """

    assemble: Callable[[list[bytes], Frame], bytes]
    merged: tuple[int, ...]
    visible: tuple[int, ...]
    status: int
    status_of: Reference | None = None
    settle: Callable[[Frame], int] | None = None
    fields: tuple[ResponseField, ...] = ()
    failures: FailuresRule | None = None
    passing: frozenset[str] = frozenset()
    merge_order: str = ""
    """How a worker process merges the visible steps (`anabranch.jsontext.order`); empty when the values need no merging."""
    compression: CompressionPlan | None = None
    reuse: "ReusePlan | None" = None
    media_type: str | None = field(init=False)
    """Of the response; None when it has no body, or when its type depends on the request."""

    def __post_init__(self) -> None:
        field = next((field for field in self.fields if field.name == b"content-type"), None)
        is_certain = field is None or (field.value is not None and field.when == "always")
        written = "application/json" if field is None or field.value is None else field.value.decode()
        object.__setattr__(self, "media_type", written if is_certain and self.status not in BODYLESS else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectPlan:
    """How clients select parts of the response. `slot`: of the selection (`anabranch.jsontext.select.Selection`); MISSING there: everything.
    `names`: what a selection can begin with; None: any name. `references`: of `response.body`, with their slots. `beside`: names of the steps to which
    other parts of the response refer."""

    parameter: str
    slot: int
    names: tuple[str, ...] | None
    references: Mapping[Reference, int]
    beside: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordPlan:
    """What the journal keeps of an endpoint's responses. `sample`: share of the responses. `durability`: None: as the journal says.
    `headers`: request header fields that are kept, lower case."""

    sample: float = 1.0
    bodies: Literal["response", "steps", "none"] = "response"
    durability: Literal["relaxed", "required"] | None = None
    headers: tuple[str, ...] = ()


def _records_answers(record: RecordPlan | None) -> bool:
    return record is not None and record.bodies != "response"


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointPlan:
    """One endpoint, compiled. `segments`: the path, parsed. `ready`: indexes of the steps that wait for none.
    `max_requests`: concurrent requests admitted; None: no limit. `record`: None: nothing is recorded. `digest`: of the endpoint as written.
    `joins`: what is done to the steps' values before they are merged. `numbers`: what clients see in place of names; None: the names.
    `access`: who may use it; None: everybody. `limits`: how often. `select`: None: clients cannot select. `unselected`: names of the steps that do not run, in a plan that was pruned to a selection
    (`anabranch.plan.select`).

    `path_parameters`, `query_parameters`, `header_parameters`, `cookie_parameters`: the declared parameters by location, in document order (path parameters
    in the order of the segments, undeclared ones as strings).
    """

    name: str
    method: str
    path: str
    segments: Segments
    timeout_s: float
    max_requests: int | None
    path_parameters: tuple[ParameterPlan, ...]
    query_parameters: tuple[ParameterPlan, ...]
    header_parameters: tuple[ParameterPlan, ...]
    cookie_parameters: tuple[ParameterPlan, ...]
    body: BodyPlan | None
    slot_count: int
    steps: tuple[StepPlan, ...]
    ready: tuple[int, ...]
    response: ResponsePlan
    joins: "tuple[IntoPlan, ...]" = ()
    record: RecordPlan | None = None
    numbers: Numbers | None = None
    digest: str = ""
    select: SelectPlan | None = None
    access: "AccessPlan | None" = None
    limits: "tuple[LimitPlan, ...]" = ()
    unselected: frozenset[str] = frozenset()
    source: config.Endpoint
    waiting: tuple[int, ...] = field(init=False)
    """For each step, the number of steps that it waits for, and one more if it has to be asked for."""
    defaults: tuple[bytes, ...] = field(init=False)
    """For each step, the value that is used until it has one."""
    has_required: bool = field(init=False)
    has_stand_ins: bool = field(init=False)
    is_recorded: bool = field(init=False)
    """Whether the journal records the requests that were sent to upstreams."""
    keeps_answers: bool = field(init=False)
    """Whether answers are kept until the response is built: for the journal, or to show what failed."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "waiting", tuple(len(step.needs) + step.is_on_demand for step in self.steps))
        object.__setattr__(self, "defaults", tuple(step.default for step in self.steps))
        object.__setattr__(self, "has_required", any(step.is_required for step in self.steps))
        object.__setattr__(self, "has_stand_ins", any(step.has_stand_in_role for step in self.steps))
        object.__setattr__(self, "is_recorded", self.record is not None)
        object.__setattr__(self, "keeps_answers", self.response.failures is not None or _records_answers(self.record))

    @property
    def is_negotiated(self) -> bool:
        """Whether clients must accept the media type of the response: it has one, and the document does not read `Accept` for itself."""
        return self.response.media_type is not None and all(parameter.field != b"accept" for parameter in self.header_parameters)

    @property
    def is_conditional(self) -> bool:
        """Whether a client may ask for a response only if it has changed: where responses have an entity tag, by whomever."""
        response = self.response
        may_be_ok = response.status == 200 or response.status_of is not None
        return (
            self.method == "GET" and may_be_ok and (response.reuse is not None or any(field.name == b"etag" for field in response.fields))
        )

    def new_frame(self) -> Frame:
        """The empty frame of a new request."""
        return [MISSING] * self.slot_count


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentPlan:
    """A whole document, compiled. `endpoints`: in document order. `pools`: the pools that some compute step uses, by name. `timeout_s`: deadline
    of requests to routes in Python. `public_names`: whether clients see the names of steps and upstreams. `auth`: how clients prove who they are, by name. `auth_failures`: how many credentials of one address may be refused; None: any number. `rules`: which requests are
    refused before anything else; None: none.
    `store`: None: none is shared."""

    endpoints: tuple[EndpointPlan, ...]
    upstreams: dict[str, UpstreamPlan] = field(default_factory=dict)
    pools: dict[str, PoolPlan] = field(default_factory=dict)
    timeout_s: float = 2.0
    public_names: bool = True
    auth: Mapping[str, config.Authentication] = field(default_factory=dict)
    auth_failures: Rate | None = None
    rules: "RulesPlan | None" = None
    cors: config.CORS | None = None
    journal: config.Journal = field(default_factory=config.Journal)
    cache: Bounds = field(default_factory=Bounds)
    is_cache_shared: bool = True
    store: StorePlan | None = None
    source: config.Document
