"""The gateway document as strict pydantic models: the allowed keys, their units and their defaults.

`docs/reference.md` and the JSON Schema are generated from the field docstrings. The models hold what the operator wrote and check one value
at a time. Checks that need the whole document (names, references, cycles) are in `anabranch.plan`.
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

# The keys of a step that are templates. Every string in them may contain references.
_TEMPLATES: Final = frozenset({"path", "query", "headers", "body", "input"})


def is_template(path: tuple[str | int, ...]) -> bool:
    """Whether the string at `path` of a document is a template, where braces mark references."""
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
    """Defaults for endpoints."""

    timeout_s: Duration = Field(2.0, alias="timeout")
    """Deadline of a request, counted from its arrival."""
    max_body: Size = 1024 * 1024
    """Maximum size of a request body. A larger body is rejected with 413."""
    max_requests: int | None = Field(None, ge=1)
    """Maximum concurrent requests to one endpoint, in one worker. If unset, there is no limit."""


class Parameter(Model):
    """A parameter of an endpoint, checked before anything is called."""

    in_: Literal["path", "query", "header"] = Field(alias="in")
    """Where the client sends the parameter."""
    schema_: dict[str, JSON] = Field({"type": "string"}, alias="schema")
    """JSON Schema of the value. `type` sets how the text is parsed: string, integer, number, boolean, or array of those."""
    required: bool = False
    """Reject requests without the parameter. Path parameters are always required."""
    default: JSON = None
    """Value if the client does not send the parameter."""
    description: str = ""
    """Text for the API description."""


class Body(Model):
    """The request body of an endpoint."""

    schema_: dict[str, JSON] | bool = Field(True, alias="schema")
    """JSON Schema of the body."""
    required: bool = True
    """Reject requests without a body."""
    max_size: Size | None = None
    """Maximum size. A larger body is rejected with 413. If unset, `defaults.max_body`."""
    description: str = ""
    """Text for the API description."""


class Step(Model):
    """A call to an upstream, or a computation by a Python function."""

    upstream: str | None = None
    """For a call: the name of the upstream."""
    method: Method | None = None
    """Method of the call. If unset, GET for a step without a body in an endpoint with several steps, otherwise the endpoint's method. A step
    with a body in a GET endpoint uses POST."""
    path: str | None = None
    """Path of the call: a template. The value of a reference is percent-encoded as one segment."""
    query: dict[str, JSON] = {}
    """Query of the call: templates. An array repeats the name for each element. A parameter that the client did not send is left out."""
    headers: dict[HeaderName, HeaderValue] = {}
    """Header fields of the call: templates. They override the upstream's."""
    body: JSON = None
    """Body of the call: a JSON template. `"{body}"` forwards the client's body."""
    idempotent: bool | None = None
    """Whether the call may be sent more than once. If unset, GET, HEAD, PUT and DELETE calls may."""
    coalesce: bool = False
    """Identical GET calls that run at the same time share one exchange."""
    stale_if_error_s: Duration | None = Field(None, alias="stale_if_error")
    """If a GET call fails, use its last good answer, unless that is older than this. The response is marked with `Gateway-Complete: ?0`,
    `Age` and `Cache-Status`."""
    compute: str | None = None
    """For a computation: the function, as `module:function`."""
    input: dict[str, JSON] | None = None
    """Arguments of the function: templates."""
    executor: Literal["thread", "process", "dask"] | None = None
    """Where the function runs: `thread` (short functions, or functions that release the GIL), `process` (CPU-bound Python), `dask` (a
    cluster). If unset, the kind of its `pool`, or else `thread`."""
    pool: Name | None = None
    """Name of one of the document's `compute_backends`. If unset, the first one of the executor's kind, or a built-in one for `thread` and
    `process`."""
    concurrency: int | None = Field(None, ge=1)
    """Maximum concurrent jobs of this step in its pool. Further jobs wait without blocking the pool's other steps. If unset, only the pool's
    limit applies."""
    timeout_s: Duration | None = Field(None, alias="timeout")
    """Maximum duration of the whole step, including waiting and retries. If unset, the time left until the endpoint's deadline."""
    required: bool = False
    """If true, the response is an error when this step fails. Otherwise `default` or null is used as its value."""
    default: JSON = None
    """Value of the step when it fails. If unset, null."""
    hidden: bool = False
    """Leave the step out of the response. Other steps can still refer to it."""
    target: str | None = None
    """Use only the value at this path of the answer, and discard the rest."""
    pick: list[str] | None = Field(None, min_length=1)
    """Keep only these paths. A path applies to every element of an array: `orders.sku` is the `sku` of every order."""
    drop: list[str] | None = Field(None, min_length=1)
    """Remove these paths."""
    rename: dict[str, str] | None = None
    """New names for members: `{old path: new name}`. Only the last part of the path is renamed: `{a.b: c}` turns `a.b` into `a.c`."""
    wrap: str | None = None
    """Put the value into an object, under this key."""

    @model_validator(mode="after")
    def _one_kind(self) -> "Step":
        if (self.upstream is None) == (self.compute is None):
            raise ValueError("a step needs either `upstream` (a call) or `compute`, not both")
        if self.upstream is not None and self.path is None:
            raise ValueError("a call needs a `path`")
        if self.pick is not None and self.drop is not None:
            raise ValueError("a step can have either `pick` or `drop`, not both")
        foreign = (
            ("input", "executor", "pool", "concurrency")
            if self.compute is None
            else ("method", "path", "body", "idempotent", "query", "headers", "coalesce", "stale_if_error_s")
        )
        wrong = [f"`{name.removesuffix('_s')}`" for name in foreign if name in self.model_fields_set]
        if wrong:
            kind = "call" if self.compute is None else "compute step"
            raise ValueError(f"a {kind} cannot have {' or '.join(wrong)}")
        return self


class Response(Model):
    """How the values of the steps are combined into one response."""

    merge: Literal["group", "flat", "deep"] = "group"
    """`group`: the value of each step under the step's name. `flat`: the keys of all values in one object. `deep`: all values merged
    recursively. On a conflict the step that is later in the document wins."""
    arrays: Literal["concat", "replace"] = "replace"
    """How `deep` combines two arrays at the same path."""
    body: JSON = None
    """Body of the response, instead of `merge`: a JSON template."""
    status: int = Field(200, ge=200, le=299)
    """Status of responses that are not errors."""
    headers: dict[HeaderName, HeaderValue] = {}
    """Header fields of responses that are not errors: fixed text, not templates."""

    @model_validator(mode="after")
    def _one_way(self) -> "Response":
        if "body" in self.model_fields_set and ("merge" in self.model_fields_set or "arrays" in self.model_fields_set):
            raise ValueError("a response with `body` cannot have `merge` or `arrays`")
        return self


class Endpoint(Model):
    """A route that the gateway offers."""

    path: str
    """Path, with parameters in braces: `/flights/{flight_id}`."""
    method: EndpointMethod = "GET"
    """Method. GET endpoints also answer HEAD."""
    name: str | None = None
    """Stable name, used as the operation id in the API description. If unset, made from method and path."""
    summary: str = ""
    """One-line summary for the API description."""
    description: str = ""
    """Longer text for the API description, in Markdown."""
    tags: list[str] = []
    """Groups in the API description."""
    timeout_s: Duration | None = Field(None, alias="timeout")
    """Deadline of the whole request. If unset, `defaults.timeout`."""
    max_requests: int | None = Field(None, ge=1)
    """Maximum concurrent requests to this endpoint, in one worker. As many again may wait, for at most a quarter of the deadline. Further
    requests are rejected with 503. If unset, `defaults.max_requests`."""
    parameters: dict[str, Parameter] = {}
    """Parameters that the client may send in path, query and headers. Other query parameters are ignored."""
    body: Body | None = None
    """The request body. If unset, an endpoint whose steps refer to `{body}` accepts any JSON."""
    steps: dict[Name, Step] = Field(min_length=1)
    """Calls and computations. Their order decides only which step wins a merge conflict."""
    response: Response = Response()
    """How the values of the steps are combined into one response."""
    journal: bool | JournalRule = False
    """Record every response in the journal. `true`: with the default rule."""


class CORS(Model):
    """Cross-origin requests from browsers (the Fetch standard), to endpoints of the document and to Python routes."""

    allow_origins: list[str] = Field(min_length=1)
    """Allowed origins, or `*` for all."""
    allow_methods: list[str] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
    """Methods that a page may use."""
    allow_headers: list[HeaderName] = []
    """Request headers that a page may send, besides the simple ones."""
    allow_credentials: bool = False
    """Allow pages to send cookies and credentials."""
    expose_headers: list[HeaderName] = ["gateway-complete", "server-timing", "proxy-status", "x-request-id", "retry-after"]
    """Response headers that a page may read."""
    max_age_s: DurationOrZero = Field(600.0, alias="max_age")
    """How long a browser may cache the answer to a preflight request."""


class Document(Model):
    """A whole gateway document."""

    version: Literal[1]
    """Version of this format."""
    defaults: Defaults = Defaults()
    """Defaults for endpoints."""
    upstreams: dict[Name, Upstream] = {}
    """The services that the gateway calls."""
    endpoints: list[Endpoint] = []
    """The routes that the gateway offers."""
    routers: list[str] = []
    """FastAPI routers with Python routes, as `module:attribute`."""
    compute_backends: dict[Name, ComputeBackend] = {}
    """Pools that run compute steps, by name. A thread pool and a process pool are built in."""
    stale: StaleMemory = StaleMemory()
    """The store for calls with `stale_if_error`."""
    journal: Journal = Journal()
    """The durable log of responses, for endpoints that set `journal`."""
    cors: CORS | None = None
    """Cross-origin requests. Off by default."""
    title: str = "Anabranch"
    """Title of the API description."""
    description: str = ""
    """Description of the API, in Markdown."""
    api_version: str = "1.0.0"
    """Version of the API that this document describes."""
