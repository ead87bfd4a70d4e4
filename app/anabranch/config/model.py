"""The gateway document as strict pydantic models: the allowed keys, their units and their defaults.

`docs/reference.md` and the JSON Schema are generated from the field docstrings. The models hold what the operator wrote and check one value
at a time. Checks that need the whole document (names, references, cycles) are in `anabranch.plan`.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from anabranch.config.auth import Access as Access
from anabranch.config.auth import Auth as Auth
from anabranch.config.auth import Authentication as Authentication
from anabranch.config.auth import AuthFailures as AuthFailures
from anabranch.config.auth import access_of as access_of
from anabranch.config.base import JSON as JSON
from anabranch.config.base import URL as URL
from anabranch.config.base import HeaderName as HeaderName
from anabranch.config.base import Model as Model
from anabranch.config.base import Name as Name
from anabranch.config.base import URLWithQuery as URLWithQuery
from anabranch.config.base import checked_name as checked_name
from anabranch.config.cache import Cache as Cache
from anabranch.config.cache import CacheMemory as CacheMemory
from anabranch.config.cache import DefaultCache as DefaultCache
from anabranch.config.cache import StaleMemory as StaleMemory
from anabranch.config.compute import ComputeBackend as ComputeBackend
from anabranch.config.elements import Batch as Batch
from anabranch.config.elements import Into as Into
from anabranch.config.journal import Journal as Journal
from anabranch.config.journal import JournalRule as JournalRule
from anabranch.config.limits import LimitName, Network
from anabranch.config.limits import Pace as Pace
from anabranch.config.limits import RateLimit as RateLimit
from anabranch.config.limits import RateLimits as RateLimits
from anabranch.config.limits import Rule as Rule
from anabranch.config.limits import limits_of as limits_of
from anabranch.config.origin import checked_method, checked_origin
from anabranch.config.response import DefaultResponse as DefaultResponse
from anabranch.config.response import Response as Response
from anabranch.config.response import ResponseHeader as ResponseHeader
from anabranch.config.response import Select as Select
from anabranch.config.reuse import ResponseCache as ResponseCache
from anabranch.config.step import STEPS as STEPS
from anabranch.config.step import AnyStep as AnyStep
from anabranch.config.step import CallStep as CallStep
from anabranch.config.step import ComputeStep as ComputeStep
from anabranch.config.step import FirstStep as FirstStep
from anabranch.config.step import JoinStep as JoinStep
from anabranch.config.step import QueryValue as QueryValue
from anabranch.config.step import Selection as Selection
from anabranch.config.step import Step as Step
from anabranch.config.step import step_model as step_model
from anabranch.config.store import Store as Store
from anabranch.config.units import Count, Duration, DurationOrZero, Size
from anabranch.config.upstream import TLS as TLS
from anabranch.config.upstream import Breaker as Breaker
from anabranch.config.upstream import Concurrency as Concurrency
from anabranch.config.upstream import Hedge as Hedge
from anabranch.config.upstream import HedgeDelay as HedgeDelay
from anabranch.config.upstream import OAuth2 as OAuth2
from anabranch.config.upstream import Pool as Pool
from anabranch.config.upstream import Proxy as Proxy
from anabranch.config.upstream import Retry as Retry
from anabranch.config.upstream import TokenExchange as TokenExchange
from anabranch.config.upstream import Upstream as Upstream


def is_template(path: tuple[str | int, ...]) -> bool:
    """Whether the string at `path` of a document is a template, where braces mark references."""
    match path:
        case ("endpoints", int(), "steps", str(), str(part), *_):
            return any(part in model.templates for model in STEPS.values())
        case ("endpoints", int(), "response", "body" | "headers" | "status", *_) | ("defaults", "response", "headers", *_):
            return True
        case ("endpoints", int(), "auth", "allow") | ("defaults", "auth", "allow"):
            return True
        case ("rate_limits", str(), "cost") | ("rules", int(), "deny"):
            return True
        case _:
            return False


EndpointMethod = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


class Compression(Model):
    """Compression of responses, for clients that accept it (`Accept-Encoding`)."""

    min_size: Size = 1024
    """Size of a body from which it is compressed. Smaller ones gain nothing."""
    encodings: list[Literal["zstd", "br", "gzip"]] = Field(["zstd", "br", "gzip"], min_length=1)
    """What the gateway offers, the preferred one first: it is used among those that the client likes equally."""

    @field_validator("encodings")
    @classmethod
    def _are_different(cls, encodings: list[str]) -> list[str]:
        if len(set(encodings)) < len(encodings):
            raise ValueError("an encoding is listed twice")
        return encodings


class Defaults(Model):
    """Defaults for endpoints."""

    timeout_s: Duration = Field(2.0, alias="timeout")
    """Deadline of a request, counted from its arrival."""
    max_body: Size = 1024 * 1024
    """Maximum size of a request body. A larger body is rejected with 413."""
    max_requests: Count | None = Field(None, ge=1)
    """Maximum concurrent requests to one endpoint, in one worker. If unset, there is no limit."""
    compression: bool | Compression = False
    """Compress responses and problems for clients that accept it. `true`: with the default rule. Not for Python routes."""
    max_calls: Count | None = Field(None, ge=1)
    """Warn, when the document is checked, of endpoints that may make more upstream calls for one request, attempts included."""
    public_names: bool = True
    """Whether clients see the names of steps and upstreams. If false, `Server-Timing`, `Proxy-Status`, `Cache-Status`, problems and the API
    description have numbers in their place, and problems have the title of a failure in place of its detail. Logs, metrics, explain and the
    admin server keep the names, and so does the body of a response that is merged by `group`. Also for Python routes."""
    cache: bool | DefaultCache = False
    """Cache the answers of all GET and HEAD calls that can be cached. `true`: with the default rule."""
    response: DefaultResponse = DefaultResponse()
    """What the responses of all endpoints have."""
    auth: Auth | None = None
    """Who may use the endpoints: the name of an authentication in `auth`, a list of names of which one suffices, or a rule. `none`, or unset: everybody. Not for
    Python routes, which declare it themselves."""
    rate_limits: RateLimits | None = None
    """Limits of the endpoints: the name of one in `rate_limits`, or a list of names. Not for Python routes."""


class Parameter(Model):
    """A parameter of an endpoint, checked before anything is called."""

    in_: Literal["path", "query", "header", "cookie"] = Field(alias="in")
    """Where the client sends the parameter. The value of a cookie is taken as it is, without quotes around it (RFC 6265 section 4.1.1)."""
    schema_: dict[str, JSON] = Field({"type": "string"}, alias="schema")
    """JSON Schema of the value. `type` sets how the text is parsed: string, integer, number, boolean, or array of those: a
    query parameter that is repeated, or a header field or path segment with commas. A cookie cannot be an array."""
    required: bool = False
    """Reject requests without the parameter. Path parameters are always required."""
    default: JSON = None
    """Value if the client does not send the parameter."""
    description: str = ""
    """Text for the API description."""


class Body(Model):
    """The request body of an endpoint."""

    type: Literal["json", "form", "multipart", "text"] = "json"
    """What the client sends. `json`. `form`: application/x-www-form-urlencoded, and `multipart`: multipart/form-data, which become an object: a field is
    read as the schema's `properties` declare it, and a repeated one is an array. `text`: text/plain in UTF-8, which becomes a string. Another content
    type is rejected with 415."""
    schema_: dict[str, JSON] | bool = Field(True, alias="schema")
    """JSON Schema of the body. A file of a multipart body is `{type: string, format: binary}`, or has a `contentMediaType`; `maxLength` is its size in
    bytes."""
    required: bool = True
    """Reject requests without a body."""
    max_size: Size | None = None
    """Maximum size of the whole body. A larger body is rejected with 413. If unset, `defaults.max_body`."""
    description: str = ""
    """Text for the API description."""


class Endpoint(Model):
    """A route that the gateway offers."""

    path: str
    """Path, with parameters in braces: `/flights/{flight_id}`. Text may stand around them: `/jobs/{id}:cancel`, `/files/{name}.json`; the longest
    text takes precedence. `{rest...}` as the last segment takes all remaining segments, with their encoding kept."""
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
    max_requests: Count | None = Field(None, ge=1)
    """Maximum concurrent requests to this endpoint, in one worker. As many again may wait, for at most a quarter of the deadline. Further
    requests are rejected with 503. If unset, `defaults.max_requests`."""
    max_calls: Count | None = Field(None, ge=1)
    """Warn, when the document is checked, if one request may make more upstream calls, attempts included. If unset, `defaults.max_calls`."""
    auth: Auth | None = None
    """Who may use the endpoint: the name of an authentication in `auth`, a list of names of which one suffices, or a rule. `none`: everybody. If unset,
    `defaults.auth`."""
    rate_limits: RateLimits | None = None
    """Limits of this endpoint: the name of one in `rate_limits`, or a list of names, all of which have to admit a request. `none`, or an empty list: no limit. If
    unset, `defaults.rate_limits`. Endpoints that name the same limit are counted together."""
    allow_from: list[Network] = []
    """Addresses and networks (CIDR) from which clients may use the endpoint; others are answered 403. If empty, all. In addition to those of the document."""
    deny_from: list[Network] = []
    """Addresses and networks (CIDR) from which clients may not use the endpoint, whatever `allow_from` says."""
    parameters: dict[str, Parameter] = {}
    """Parameters that the client may send in path, query, headers and cookies. Other query parameters are ignored."""
    body: Body | None = None
    """The request body. If unset, an endpoint whose steps refer to `{body}` accepts any JSON."""
    steps: dict[Name, AnyStep] = Field(min_length=1)
    """Calls and computations. Their order decides only which step wins a merge conflict."""
    response: Response = Response()
    """How the values of the steps are combined into one response."""
    compression: bool | Compression | None = None
    """Compress responses and problems for clients that accept it; `false`: never, for instance because a response has a secret beside text that
    clients choose. If unset, `defaults.compression`; a rule here replaces the whole default."""
    journal: bool | JournalRule = False
    """Record every response in the journal. `true`: with the default rule."""


class CORS(Model):
    """Cross-origin requests from browsers (the Fetch standard), to endpoints of the document and to Python routes."""

    allow_origins: list[Annotated[str, AfterValidator(checked_origin)]] = Field(min_length=1)
    """Allowed origins as browsers send them, such as `https://app.example`. `https://*.app.example`: every name below that host, but not the host
    itself. `*`: every origin. `null`: pages in sandboxes and files; any page can be such a one."""
    allow_methods: list[Annotated[str, AfterValidator(checked_method)]] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
    """Methods that a page may use, in capital letters, or `*` for all."""
    allow_headers: list[HeaderName] = []
    """Request headers that a page may send, besides the simple ones."""
    allow_credentials: bool = False
    """Allow pages to send cookies and credentials."""
    expose_headers: list[HeaderName] = [
        "gateway-complete",
        "server-timing",
        "proxy-status",
        "x-request-id",
        "retry-after",
        "ratelimit",
        "ratelimit-policy",
    ]
    """Response headers that a page may read."""
    max_age_s: DurationOrZero = Field(600.0, alias="max_age")
    """How long a browser may cache the answer to a preflight request."""

    @model_validator(mode="after")
    def _has_an_effect(self) -> "CORS":
        if "*" in self.allow_origins and len(self.allow_origins) > 1:
            raise ValueError("`*` in `allow_origins` allows every origin already; remove it, or all others")
        if self.allow_credentials and "*" in self.expose_headers:
            raise ValueError("with `allow_credentials`, browsers take `*` in `expose_headers` for a name; list the header fields")
        return self


def checked_auth_name(name: str) -> str:
    """Return `name` if it is a valid name for an authentication. Raises ValueError."""
    if name == "none":
        raise ValueError("`none` stands for no authentication; use another name")
    return checked_name(name)


class Document(Model):
    """A whole gateway document."""

    version: Literal[1]
    """Version of this format."""
    defaults: Defaults = Defaults()
    """Defaults for endpoints."""
    upstreams: dict[Name, Upstream] = {}
    """The services that the gateway calls."""
    auth: dict[Annotated[Name, AfterValidator(checked_auth_name)], Authentication] = {}
    """How clients prove who they are, by name."""
    auth_failures: AuthFailures | None = None
    """Limits the refused credentials of one client address. Off by default."""
    rate_limits: dict[LimitName, RateLimit] = {}
    """How often clients may send requests, by name. Endpoints name the limits that they have."""
    allow_from: list[Network] = []
    """Addresses and networks (CIDR) from which clients may use anything but the gateway's own pages; others are answered 403. If empty, all. Also for Python
    routes."""
    deny_from: list[Network] = []
    """Addresses and networks (CIDR) from which nobody may use anything but the gateway's own pages, whatever `allow_from` says. Also for Python routes."""
    rules: list[Rule] = []
    """Requests that are refused, before anything else is done for them. Also for Python routes; not for the gateway's own pages."""
    endpoints: list[Endpoint] = []
    """The routes that the gateway offers."""
    routers: list[str] = []
    """FastAPI routers with Python routes, as `module:attribute`."""
    compute_backends: dict[Name, ComputeBackend] = {}
    """Pools that run compute steps, by name. A thread pool and a process pool are built in."""
    cache: CacheMemory = CacheMemory()
    """The memory for the answers of calls with `cache` or `stale_if_error`."""
    stale: StaleMemory | None = None
    """The old name of `cache`."""
    store: Store | None = None
    """The store that several gateways share. If unset, each worker process knows only its own."""
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
