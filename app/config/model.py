"""The gateway document as strict pydantic models: what may stand where, in which unit, with which default.

Field docstrings are the reference: `docs/reference.md` and the JSON Schema are generated from them. The models hold what the operator
wrote and check one value at a time; what needs the whole document (names, references, cycles) is checked by `app.plan`.
"""

import re
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from app.config.units import Duration, DurationOrZero, Ratio, Size, parse_duration
from app.core.exchange import Address

# A YAML value that is any JSON: templates, defaults, schemas.
JSON = Any

_NAME: Final = r"^[A-Za-z_][A-Za-z0-9_-]*$"
_HEADER_NAME: Final = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"
_HEADER_VALUE: Final = r"^[\t\x20-\x7e\x80-\xff]*$"

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


# The sentences of these validators never quote the value: it may hold a secret.


def checked_name(value: str) -> str:
    """`value`, if an upstream, an endpoint or a step can be called so. Raises ValueError."""
    if len(value) > 64 or not re.fullmatch(_NAME, value):
        raise ValueError("a name has at most 64 letters, digits, `_` and `-`, and begins with a letter or `_`")
    return value


def _header_name(value: str) -> str:
    if len(value) > 128 or not re.fullmatch(_HEADER_NAME, value):
        raise ValueError("a header field's name has at most 128 letters, digits and characters such as `-`, and no spaces")
    return value


def _header_value(value: str) -> str:
    if not re.fullmatch(_HEADER_VALUE, value):
        raise ValueError("a header field's value has no line breaks, no control characters and none beyond ISO 8859-1")
    return value


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise ValueError("this is not a URL such as http://host:8080/base") from None
    if parts.scheme not in ("http", "https"):
        raise ValueError("a URL begins with http:// or https://")
    if port == 0:
        raise ValueError("the port must be between 1 and 65535")
    Address.parse(value)
    return value


def _hedge_delay(value: Any) -> float | str:
    if isinstance(value, str) and value.startswith("p") and value[1:].replace(".", "", 1).isdigit():
        if not 0 < float(value[1:]) < 100:
            raise ValueError("a quantile lies between p0 and p100, such as p95")
        return value
    try:
        return parse_duration(value)
    except ValueError:
        raise ValueError("a duration such as 50ms, or a quantile of this upstream's latency such as p95") from None


Name = Annotated[str, AfterValidator(checked_name), WithJsonSchema({"type": "string", "pattern": _NAME, "maxLength": 64})]
HeaderName = Annotated[str, AfterValidator(_header_name), WithJsonSchema({"type": "string", "pattern": _HEADER_NAME, "maxLength": 128})]
HeaderValue = Annotated[str, AfterValidator(_header_value)]
URL = Annotated[
    str, AfterValidator(_url), WithJsonSchema({"type": "string", "pattern": "^https?://", "examples": ["http://127.0.0.1:9101"]})
]
HedgeDelay = Annotated[
    float | str,
    BeforeValidator(_hedge_delay),
    WithJsonSchema({"type": "string", "pattern": r"^(p\d+(\.\d+)?|\d+(\.\d+)?(us|ms|s|m|h|d))$", "examples": ["50ms", "p95"]}),
]
Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
EndpointMethod = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


def _number_as_text(value: Any) -> Any:
    """`503` and `1.2` without quotes are numbers in YAML; what is meant is the choice of that name."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


RetryReason = Annotated[
    Literal["connect", "timeout", "connection_lost", "429", "500", "502", "503", "504"],
    BeforeValidator(_number_as_text),
    WithJsonSchema({"enum": ["connect", "timeout", "connection_lost", 429, 500, 502, 503, 504, "429", "500", "502", "503", "504"]}),
]
TLSVersion = Annotated[Literal["1.2", "1.3"], BeforeValidator(_number_as_text), WithJsonSchema({"enum": [1.2, 1.3, "1.2", "1.3"]})]


class Model(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_by_name=True, validate_by_alias=True, strict=True
    )

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Only which keys were written: values may hold secrets, and a repr ends up in logs and tracebacks."""
        return [(None, name) for name in type(self).model_fields if name in self.model_fields_set]


class Defaults(Model):
    """What endpoints have that say nothing else."""

    timeout_s: Duration = Field(2.0, alias="timeout")
    """Deadline of an endpoint that sets none, counted from the arrival of the request."""
    max_body: Size = 1024 * 1024
    """Largest request body of an endpoint that sets none. A larger one is answered with 413."""


class Concurrency(Model):
    """The bulkhead: how many exchanges with the upstream may run at once, and how many may wait."""

    limit: int = Field(256, ge=1)
    """Exchanges at once. With `adaptive` it is where the search begins."""
    queue: int = Field(1024, ge=0)
    """Calls that may wait for a place. One more is rejected at once (503). 0: nobody waits."""
    queue_timeout_s: Duration | None = Field(None, alias="queue_timeout")
    """Longest wait for a place; then the call is rejected (503). Without it a call waits until its own deadline."""
    adaptive: Literal["gradient", "aimd"] | None = None
    """Let the limit follow what the upstream can take: `gradient` by its latency, `aimd` by its failures. Without it the limit is fixed."""
    min: int = Field(8, ge=1)
    """Lowest adaptive limit."""
    max: int = Field(1024, ge=1)
    """Highest adaptive limit."""

    @model_validator(mode="after")
    def _ordered(self) -> "Concurrency":
        if self.adaptive and not self.min <= self.limit <= self.max:
            raise ValueError("an adaptive limit needs min <= limit <= max")
        return self


class Retry(Model):
    """Further attempts of an idempotent call. Never past its deadline, never over the budget."""

    attempts: int = Field(3, ge=1, le=10)
    """Attempts in all, the first one included."""
    on: list[RetryReason] = ["connect", "timeout", "connection_lost", "502", "503", "504"]
    """What is tried again: `connect` (nothing was sent), `timeout`, `connection_lost`, or a status."""
    backoff_s: Duration = Field(0.025, alias="backoff")
    """Longest wait before the second attempt; doubles for each further one. The wait is drawn between zero and that (full jitter)."""
    max_backoff_s: Duration = Field(0.25, alias="max_backoff")
    """No wait is longer, except one that the upstream asks for by `Retry-After`."""
    budget: Ratio = 0.1
    """Retries as a share of the upstream's recent calls. When it is used up, failures are final."""


class Hedge(Model):
    """A second attempt beside a slow first one; the first good answer wins and the other is cancelled. Idempotent calls only."""

    after: HedgeDelay
    """How long the first attempt may take: a duration, or a quantile of the upstream's recent latency."""
    budget: Ratio = 0.05
    """Hedges as a share of the upstream's recent calls."""


class Breaker(Model):
    """Leaves an upstream alone while it fails, and tries it carefully afterwards."""

    window_s: Duration = Field(10.0, alias="window")
    """How far back calls are counted."""
    failure_rate: Ratio = 0.5
    """Opens at this share of failed calls."""
    minimum_calls: int = Field(20, ge=1)
    """Never opens with fewer calls in the window."""
    open_for_s: Duration = Field(5.0, alias="open_for")
    """How long it stays open before probes are let through."""
    probes: int = Field(3, ge=1)
    """Calls let through half-open. All must succeed to close it; one failure opens it again."""
    slow_after_s: Duration | None = Field(None, alias="slow_after")
    """A call that takes longer is slow. Without it no call is."""
    slow_rate: Ratio = 1.0
    """Opens at this share of slow calls."""
    on: list[Literal["5xx", "timeout", "connect", "connection_lost", "protocol_error"]] = [
        "5xx", "timeout", "connect", "connection_lost", "protocol_error",
    ]  # fmt: skip
    """What counts as a failure. A cancelled call never counts."""


class TLS(Model):
    """How an https upstream proves who it is, and how we do."""

    ca: str | None = None
    """PEM file of the authorities to trust instead of the system's."""
    cert: str | None = None
    """PEM file of our client certificate chain (mTLS)."""
    key: str | None = None
    """PEM file of our private key, where it is not in `cert`."""
    server_name: str | None = None
    """Name sent by SNI and verified, instead of the URL's host."""
    min_version: TLSVersion = "1.2"
    """Oldest TLS version accepted."""
    verify: bool = True
    """False trusts anybody: for a test on your own machine only."""


class OAuth2(Model):
    """A bearer token by the client credentials grant (RFC 6749 section 4.4): fetched once, renewed before it expires."""

    token_url: URL
    """The authority's token endpoint."""
    client_id: str
    """Our name there."""
    client_secret: str
    """Our secret there: `${NAME}` or `${file:PATH}`."""
    scope: str | None = None
    """Scopes, separated by spaces."""
    audience: str | None = None
    """Sent as `audience`, where the authority wants it."""


class Pool(Model):
    """Kept-alive connections of an upstream."""

    max_idle: int = Field(256, ge=0)
    """Idle connections kept for each address. 0: every connection is closed after its exchange."""
    idle_timeout_s: Duration = Field(30.0, alias="idle_timeout")
    """An idle connection older than this is closed. Keep it below the upstream's own limit."""
    max_age_s: Duration = Field(600.0, alias="max_age")
    """A connection older than this is not used again, so that changes of DNS and load balancers are noticed."""


class Upstream(Model):
    """A service that we call."""

    url: URL | None = None
    """Its address: `http(s)://host[:port][/base]`. Either this or `urls`."""
    urls: list[URL] | None = Field(None, min_length=1)
    """Its addresses, when there are several."""
    balance: Literal["round_robin", "least_pending", "random", "peak_ewma"] = "round_robin"
    """How one of several addresses is chosen. `peak_ewma`: the better of two random ones by recent latency and load."""
    dns_ttl_s: Duration | None = Field(None, alias="dns_ttl")
    """Resolve the names anew after this time and use all of their addresses (a headless Kubernetes service). Without it the name is
    resolved for each new connection."""
    transport: Literal["wire", "httpx"] = "wire"
    """`wire`: our own HTTP/1.1. `httpx`: a stock pool behind httpx, for HTTP/2 and proxies."""
    http2: bool = False
    """Offer HTTP/2 (transport `httpx` only)."""
    proxy: URL | None = None
    """Forward proxy (transport `httpx` only)."""
    timeout_s: Duration | None = Field(None, alias="timeout")
    """Longest one attempt may take. Without it an attempt may use what is left of the deadline."""
    connect_timeout_s: Duration = Field(1.0, alias="connect_timeout")
    """Longest wait for a connection."""
    concurrency: Concurrency = Concurrency()
    """The bulkhead around this upstream."""
    retry: Retry | None = None
    """Further attempts. Off by default."""
    hedge: Hedge | None = None
    """Hedged attempts. Off by default."""
    breaker: Breaker | None = None
    """Circuit breaker. Off by default. With several addresses each has its own."""
    headers: dict[HeaderName, HeaderValue] = {}
    """Header fields sent with every call. They win over forwarded ones."""
    forward_headers: list[HeaderName] = []
    """Header fields passed on from the client's request, when it has them."""
    deadline_header: HeaderName | None = None
    """Header that tells the upstream how many milliseconds are left. Off by default."""
    max_response: Size = 10 * 1024 * 1024
    """Largest body accepted, after content decoding."""
    follow_redirects: int = Field(0, ge=0, le=10)
    """How many redirects of a GET or HEAD to follow, on the same origin only. 0: a redirect is a failure."""
    tls: TLS | None = None
    """Settings of https addresses."""
    oauth2: OAuth2 | None = None
    """Send a bearer token from an authority."""
    pool: Pool = Pool()
    """Kept-alive connections."""

    @model_validator(mode="after")
    def _consistent(self) -> "Upstream":
        if (self.url is None) == (self.urls is None):
            raise ValueError("an upstream has either url or urls")
        if self.transport == "wire" and (self.http2 or self.proxy):
            raise ValueError("http2 and proxy need `transport: httpx`")
        return self

    @property
    def addresses(self) -> tuple[Address, ...]:
        urls = self.urls if self.urls is not None else [self.url or ""]
        return tuple(Address.parse(url) for url in urls)


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
    compute: str | None = None
    """A compute: the function, as `module:function`."""
    input: dict[str, JSON] | None = None
    """Arguments of the function: templates."""
    executor: Literal["thread", "process", "dask"] | None = None
    """Where the function runs. Without it `thread`."""
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
            ("input", "executor") if self.compute is None else ("method", "path", "body", "idempotent", "query", "headers", "coalesce")
        )
        wrong = [name for name in foreign if name in self.model_fields_set]
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
    parameters: dict[str, Parameter] = {}
    """What the client may send in path, query and headers. Anything else in the query is ignored."""
    body: Body | None = None
    """The request body. Without it an endpoint whose steps refer to `{body}` takes any JSON."""
    steps: dict[Name, Step] = Field(min_length=1)
    """What is called and computed. Order means nothing, except for who wins a merge."""
    response: Response = Response()
    """How the values become one response."""


class CORS(Model):
    """Cross-origin requests from browsers (the Fetch standard)."""

    allow_origins: list[str] = Field(min_length=1)
    """Origins, or `*`."""
    allow_methods: list[str] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
    """Methods a page may use."""
    allow_headers: list[HeaderName] = []
    """Request headers a page may send beyond the simple ones."""
    allow_credentials: bool = False
    """Let pages send cookies and credentials."""
    expose_headers: list[HeaderName] = ["gateway-complete", "server-timing", "proxy-status", "x-request-id"]
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
    cors: CORS | None = None
    """Cross-origin requests. Off by default."""
    title: str = "Anabranch"
    """Title of the API description."""
    description: str = ""
    """Description of the API; Markdown."""
    api_version: str = "1.0.0"
    """Version of the API that this document describes."""
