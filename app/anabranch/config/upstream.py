"""An upstream in the document: its addresses, its transport, and the policies around its calls."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from anabranch.config.base import URL, HeaderName, HeaderValue, Model
from anabranch.config.units import Duration, Ratio, Size, parse_duration
from anabranch.core.exchange import Address


def _hedge_delay(value: Any) -> float | str:
    if isinstance(value, str) and value.startswith("p") and value[1:].replace(".", "", 1).isdigit():
        if not 0 < float(value[1:]) < 100:
            raise ValueError("a quantile lies between p0 and p100, such as p95")
        return value
    try:
        return parse_duration(value)
    except ValueError:
        raise ValueError("a duration such as 50ms, or a quantile of this upstream's latency such as p95") from None


HedgeDelay = Annotated[
    float | str,
    BeforeValidator(_hedge_delay),
    WithJsonSchema({"type": "string", "pattern": r"^(p\d+(\.\d+)?|\d+(\.\d+)?(us|ms|s|m|h|d))$", "examples": ["50ms", "p95"]}),
]


def _number_as_text(value: Any) -> Any:
    """`503` and `1.2` without quotes are numbers in YAML; what is meant is the choice of that name."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


RetryReason = Annotated[
    Literal["connect", "timeout", "connection_lost", "429", "500", "502", "503", "504"],
    BeforeValidator(_number_as_text),
    WithJsonSchema({"enum": ["connect", "timeout", "connection_lost", 429, 500, 502, 503, 504, "429", "500", "502", "503", "504"]}),
]
TLSVersion = Annotated[Literal["1.2", "1.3"], BeforeValidator(_number_as_text), WithJsonSchema({"enum": [1.2, 1.3, "1.2", "1.3"]})]


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
    """How an https upstream proves who it is, and how we do. Relative paths of files start at the document's folder."""

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
