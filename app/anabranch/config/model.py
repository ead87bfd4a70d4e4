"""The gateway document as strict pydantic models: what may stand where, in which unit, with which default.

Field docstrings are the reference: `docs/reference.md` and the JSON Schema are generated from them. The models hold what the operator
wrote and check one value at a time; what needs the whole document (names, references, cycles) is checked by `anabranch.plan`.
"""

from typing import Final, Literal

from pydantic import Field, model_validator

from anabranch.config.base import JSON as JSON
from anabranch.config.base import URL as URL
from anabranch.config.base import HeaderName as HeaderName
from anabranch.config.base import HeaderValue as HeaderValue
from anabranch.config.base import Model as Model
from anabranch.config.base import Name as Name
from anabranch.config.base import checked_name as checked_name
from anabranch.config.compute import ComputeBackend as ComputeBackend
from anabranch.config.journal import Journal as Journal
from anabranch.config.journal import JournalRule as JournalRule
from anabranch.config.stale import StaleMemory as StaleMemory
from anabranch.config.units import Duration, DurationOrZero, Size
from anabranch.config.upstream import TLS as TLS
from anabranch.config.upstream import Breaker as Breaker
from anabranch.config.upstream import Concurrency as Concurrency
from anabranch.config.upstream import Hedge as Hedge
from anabranch.config.upstream import HedgeDelay as HedgeDelay
from anabranch.config.upstream import OAuth2 as OAuth2
from anabranch.config.upstream import Pool as Pool
from anabranch.config.upstream import Retry as Retry
from anabranch.config.upstream import Upstream as Upstream

# The parts of a step that are templates. Everything in them may hold references.
_TEMPLATES: Final = frozenset({"path", "query", "headers", "body", "input"})


def is_template(path: tuple[str | int, ...]) -> bool:
    """Whether the text at `path` of a document is a template, in which braces have a meaning."""
    match path:
        case ("endpoints", int(), "steps", str(), str(part), *_):
            return part in _TEMPLATES
        case ("endpoints", int(), "response", "body", *_):
            return True
        case _:
            return False


Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
EndpointMethod = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


class Defaults(Model):
    """What endpoints have that say nothing else."""

    timeout_s: Duration = Field(2.0, alias="timeout")
    """Deadline of an endpoint that sets none, counted from the arrival of the request."""
    max_body: Size = 1024 * 1024
    """Largest request body of an endpoint that sets none. A larger one is answered with 413."""
    max_requests: int | None = Field(None, ge=1)
    """Requests to one endpoint that may be under way at once, where the endpoint sets none. Without it there is no limit."""


class Parameter(Model):
    """A parameter of an endpoint, checked before anything is called."""

    in_: Literal["path", "query", "header"] = Field(alias="in")
    """Where the client sends it."""
    schema_: dict[str, JSON] = Field({"type": "string"}, alias="schema")
    """JSON Schema of its value. `type` says what it is read as: string, integer, number, boolean, or array of those."""
    required: bool = False
    """Refuse requests without it. A path parameter always is."""
    default: JSON = None
    """Its value when the client sends none."""
    description: str = ""
    """For the API description."""


class Body(Model):
    """The request body of an endpoint."""

    schema_: dict[str, JSON] | bool = Field(True, alias="schema")
    """JSON Schema of the body."""
    required: bool = True
    """Refuse requests without a body."""
    max_size: Size | None = None
    """Largest body; a larger one is answered with 413. Without it, `defaults.max_body`."""
    description: str = ""
    """For the API description."""


class Step(Model):
    """A call to an upstream, or a compute of a Python function."""

    upstream: str | None = None
    """A call: the upstream's name."""
    method: Method | None = None
    """Method of the call. Without it the endpoint's, and GET when the endpoint has several steps and this one sends no body."""
    path: str | None = None
    """Path of the call: a template. A reference in it is percent-encoded as one segment."""
    query: dict[str, JSON] = {}
    """Query of the call: templates. An array gives the name once for each element. A parameter the client did not send is left out."""
    headers: dict[HeaderName, HeaderValue] = {}
    """Header fields of the call: templates. They win over the upstream's."""
    body: JSON = None
    """Body of the call: a JSON template. `"{body}"` passes the client's on."""
    idempotent: bool | None = None
    """Whether the call may be sent twice. Without it GET, HEAD, PUT and DELETE may."""
    coalesce: bool = False
    """Let identical GET calls that run at the same time share one exchange."""
    stale_if_error_s: Duration | None = Field(None, alias="stale_if_error")
    """When a GET call fails, answer with its last good answer if that is not older. The response is marked: `Gateway-Complete: ?0`, `Age`,
    `Cache-Status`."""
    compute: str | None = None
    """A compute: the function, as `module:function`."""
    input: dict[str, JSON] | None = None
    """Arguments of the function: templates."""
    executor: Literal["thread", "process", "dask"] | None = None
    """Where the function runs: `thread` (short, or it releases the GIL), `process` (busy with Python), `dask` (a cluster). Without it the kind
    of its `pool`, else `thread`."""
    pool: Name | None = None
    """One of the document's `compute_backends`. Without it the first one of the executor's kind, or a built-in one for `thread` and
    `process`."""
    concurrency: int | None = Field(None, ge=1)
    """Jobs of this step at once in its pool. More of them wait, while the other steps of the pool go on. Without it, no limit but the
    pool's."""
    timeout_s: Duration | None = Field(None, alias="timeout")
    """Longest the whole step may take, waiting and retries included. Without it, what is left of the endpoint's deadline."""
    required: bool = False
    """The response is an error when this step fails. Otherwise its `default` or null stands in."""
    default: JSON = None
    """Stands in for the value when the step fails. Without it null."""
    hidden: bool = False
    """Leave the step out of the response; others may refer to it."""
    target: str | None = None
    """Take what is at this path of the answer, and forget the rest."""
    pick: list[str] | None = Field(None, min_length=1)
    """Keep only these paths. They go into arrays: `orders.sku` is every order's sku."""
    drop: list[str] | None = Field(None, min_length=1)
    """Leave these paths out."""
    rename: dict[str, str] | None = None
    """New names for paths: `{old: new}`. The new name is the last part only: `{a.b: c}` makes `a.c` of `a.b`."""
    wrap: str | None = None
    """Put the value under this key."""

    @model_validator(mode="after")
    def _one_kind(self) -> "Step":
        if (self.upstream is None) == (self.compute is None):
            raise ValueError("a step has either upstream (a call) or compute")
        if self.upstream is not None and self.path is None:
            raise ValueError("a call needs a path")
        if self.pick is not None and self.drop is not None:
            raise ValueError("a step has either pick or drop")
        foreign = (
            ("input", "executor", "pool", "concurrency")
            if self.compute is None
            else ("method", "path", "body", "idempotent", "query", "headers", "coalesce", "stale_if_error_s")
        )
        wrong = [name.removesuffix("_s") for name in foreign if name in self.model_fields_set]
        if wrong:
            kind = "call" if self.compute is None else "compute"
            raise ValueError(f"a {kind} has no {' and no '.join(wrong)}")
        return self


class Response(Model):
    """How the steps' values become one response."""

    merge: Literal["group", "flat", "deep"] = "group"
    """`group`: each step under its name. `flat`: the keys of all together. `deep`: recursively. The later step in the document wins."""
    arrays: Literal["concat", "replace"] = "replace"
    """What `deep` does with two arrays at the same place."""
    body: JSON = None
    """Write the response out by hand, instead of `merge`: a JSON template."""
    status: int = Field(200, ge=200, le=299)
    """Status of a response that is not an error."""
    headers: dict[HeaderName, HeaderValue] = {}
    """Header fields of every response of the endpoint that is not an error: fixed text."""

    @model_validator(mode="after")
    def _one_way(self) -> "Response":
        if "body" in self.model_fields_set and ("merge" in self.model_fields_set or "arrays" in self.model_fields_set):
            raise ValueError("a response has either merge or body")
        return self


class Endpoint(Model):
    """A route that we offer."""

    path: str
    """Path, with parameters in braces: `/flights/{flight_id}`."""
    method: EndpointMethod = "GET"
    """Method. GET answers HEAD as well."""
    name: str | None = None
    """Stable name, the operation id of the API description. Without it made of method and path."""
    summary: str = ""
    """One line for the API description."""
    description: str = ""
    """More for the API description; Markdown."""
    tags: list[str] = []
    """Groups of the API description."""
    timeout_s: Duration | None = Field(None, alias="timeout")
    """Deadline of the whole request. Without it `defaults.timeout`."""
    max_requests: int | None = Field(None, ge=1)
    """Requests to this endpoint that may be under way at once, in one worker. As many again may wait, at most for a quarter of the deadline;
    one more is answered with 503. Without it `defaults.max_requests`."""
    parameters: dict[str, Parameter] = {}
    """What the client may send in path, query and headers. Anything else in the query is ignored."""
    body: Body | None = None
    """The request body. Without it an endpoint whose steps refer to `{body}` takes any JSON."""
    steps: dict[Name, Step] = Field(min_length=1)
    """What is called and computed. Order means nothing, except for who wins a merge."""
    response: Response = Response()
    """How the values become one response."""
    journal: bool | JournalRule = False
    """Keep a record of every response. `true`: as the document's `journal` says."""


class CORS(Model):
    """Cross-origin requests from browsers (the Fetch standard), to endpoints of the document and to routes in Python."""

    allow_origins: list[str] = Field(min_length=1)
    """Origins, or `*`."""
    allow_methods: list[str] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
    """Methods a page may use."""
    allow_headers: list[HeaderName] = []
    """Request headers a page may send beyond the simple ones."""
    allow_credentials: bool = False
    """Let pages send cookies and credentials."""
    expose_headers: list[HeaderName] = ["gateway-complete", "server-timing", "proxy-status", "x-request-id", "retry-after"]
    """Response headers a page may read."""
    max_age_s: DurationOrZero = Field(600.0, alias="max_age")
    """How long a browser may remember a preflight answer."""


class Document(Model):
    """A whole gateway document."""

    version: Literal[1]
    """Version of this format."""
    defaults: Defaults = Defaults()
    """What endpoints have that say nothing else."""
    upstreams: dict[Name, Upstream] = {}
    """The services that we call."""
    endpoints: list[Endpoint] = []
    """The routes that we offer."""
    routers: list[str] = []
    """FastAPI routers with routes in Python, as `module:attribute`."""
    compute_backends: dict[Name, ComputeBackend] = {}
    """Where compute steps run, by name. Threads and processes are there without it."""
    stale: StaleMemory = StaleMemory()
    """The memory of calls with `stale_if_error`."""
    journal: Journal = Journal()
    """The durable log of responses, for endpoints that say `journal`."""
    cors: CORS | None = None
    """Cross-origin requests. Off by default."""
    title: str = "Anabranch"
    """Title of the API description."""
    description: str = ""
    """Description of the API; Markdown."""
    api_version: str = "1.0.0"
    """Version of the API that this document describes."""
