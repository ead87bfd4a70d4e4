"""An upstream in the document: its addresses, its transport, and the policies around its calls."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from anabranch.config.base import URL, ForwardedHeader, HeaderName, HeaderValue, Host, Model, URLWithQuery
from anabranch.config.limits import Pace
from anabranch.config.units import Count, Duration, Ratio, Size, parse_duration
from anabranch.core.exchange import Address
from anabranch.core.forwarding import Forwarded


def _hedge_delay(value: Any) -> float | str:
    if isinstance(value, str) and value.startswith("p") and value[1:].replace(".", "", 1).isdigit():
        if not 0 < float(value[1:]) < 100:
            raise ValueError("a quantile must be above p0 and below p100, such as p95")
        return value
    try:
        return parse_duration(value)
    except ValueError:
        raise ValueError("must be a duration such as 50ms, or a quantile of this upstream's latency such as p95") from None


HedgeDelay = Annotated[
    float | str,
    BeforeValidator(_hedge_delay),
    WithJsonSchema({"type": "string", "pattern": r"^(p\d+(\.\d+)?|\d+(\.\d+)?(us|ms|s|m|h|d))$", "examples": ["50ms", "p95"]}),
]


def _number_as_text(value: Any) -> Any:
    """Convert `503` and `1.2`, which are numbers in YAML without quotes, to the choice of that name."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


RetryReason = Annotated[
    Literal["connect", "timeout", "connection_lost", "429", "500", "502", "503", "504"],
    BeforeValidator(_number_as_text),
    WithJsonSchema({"enum": ["connect", "timeout", "connection_lost", 429, 500, 502, 503, 504, "429", "500", "502", "503", "504"]}),
]
TLSVersion = Annotated[Literal["1.2", "1.3"], BeforeValidator(_number_as_text), WithJsonSchema({"enum": [1.2, 1.3, "1.2", "1.3"]})]


class Concurrency(Model):
    """The bulkhead: limits concurrent exchanges with the upstream, and the calls that wait for a slot."""

    limit: Count = Field(256, ge=1)
    """Maximum concurrent exchanges. With `adaptive`, the initial limit."""
    queue: Count = Field(1024, ge=0)
    """Maximum calls waiting for a slot. Further calls are rejected immediately (503). 0: no call waits."""
    queue_timeout_s: Duration | None = Field(None, alias="queue_timeout")
    """Maximum wait for a slot; after it the call is rejected (503). If unset, a call waits until its own deadline."""
    adaptive: Literal["gradient", "aimd"] | None = None
    """Adapt the limit to the upstream's capacity: `gradient` by its latency, `aimd` by its failures. If unset, the limit is fixed."""
    min: Count = Field(8, ge=1)
    """Minimum adaptive limit."""
    max: Count = Field(1024, ge=1)
    """Maximum adaptive limit."""

    @model_validator(mode="after")
    def _ordered(self) -> "Concurrency":
        if self.adaptive and not self.min <= self.limit <= self.max:
            raise ValueError("an adaptive limit needs min <= limit <= max")
        return self


class Retry(Model):
    """Further attempts of an idempotent call, within its deadline and the retry budget."""

    attempts: int = Field(3, ge=1, le=10)
    """Maximum number of attempts, including the first."""
    on: list[RetryReason] = ["connect", "timeout", "connection_lost", "502", "503", "504"]
    """Failures that are retried: `connect` (nothing was sent), `timeout`, `connection_lost`, or a status."""
    backoff_s: Duration = Field(0.025, alias="backoff")
    """Maximum wait before the second attempt; doubles for each further attempt. The wait is random between zero and this (full jitter)."""
    max_backoff_s: Duration = Field(0.25, alias="max_backoff")
    """Upper bound of every wait, except one that the upstream requests with `Retry-After`."""
    budget: Ratio = 0.1
    """Retries as a share of the upstream's recent calls. When the budget is used up, failures are not retried."""


class Hedge(Model):
    """A second attempt, started while a slow first one still runs. The first good answer wins and the other attempt is cancelled. Idempotent
    calls only."""

    after: HedgeDelay
    """Time after which the second attempt starts: a duration, or a quantile of the upstream's recent latency."""
    budget: Ratio = 0.05
    """Second attempts as a share of the upstream's recent calls."""


class Breaker(Model):
    """Circuit breaker: rejects calls to an upstream that keeps failing, then probes it before it closes again."""

    window_s: Duration = Field(10.0, alias="window")
    """Sliding window in which calls are counted."""
    failure_rate: Ratio = 0.5
    """Share of failed calls at which the breaker opens."""
    minimum_calls: Count = Field(20, ge=1)
    """Number of calls in the window below which the breaker never opens."""
    open_for_s: Duration = Field(5.0, alias="open_for")
    """How long the breaker stays open before it admits probes."""
    probes: Count = Field(3, ge=1)
    """Calls admitted while the breaker is half-open. If all succeed it closes; one failure opens it again."""
    slow_after_s: Duration | None = Field(None, alias="slow_after")
    """A call that takes longer than this is slow. If unset, no call is slow."""
    slow_rate: Ratio = 1.0
    """Share of slow calls at which the breaker opens."""
    on: list[Literal["5xx", "timeout", "connect", "connection_lost", "protocol_error"]] = [
        "5xx", "timeout", "connect", "connection_lost", "protocol_error",
    ]  # fmt: skip
    """What counts as a failure. A cancelled call never counts."""


class TLS(Model):
    """Certificates and TLS settings of https addresses. Relative file paths start at the document's folder."""

    ca: str | None = None
    """PEM file of the certificate authorities to trust instead of the system's."""
    cert: str | None = None
    """PEM file of the gateway's client certificate chain (mTLS)."""
    key: str | None = None
    """PEM file of the client certificate's private key, if it is not in `cert`."""
    server_name: str | None = None
    """Name sent with SNI and verified, instead of the URL's host."""
    min_version: TLSVersion = "1.2"
    """Oldest TLS version accepted."""
    verify: bool = True
    """False disables certificate verification. Use it only for tests on your own machine."""


def _proxy_url(value: str) -> str:
    if "@" in value:
        raise ValueError("credentials are not allowed in a URL; set `username` and `password` beside `url`")
    if Address.parse(value).base_path:
        raise ValueError("a proxy has no path")
    return value


class Proxy(Model):
    """A forward proxy between the gateway and the upstream. An https address is reached through a tunnel (CONNECT); the proxy of an http address is
    sent whole URLs. Proxies that the environment names (`HTTPS_PROXY`, `NO_PROXY`) are not used."""

    shorthand: ClassVar[str | None] = "url"

    url: Annotated[str, AfterValidator(_proxy_url), WithJsonSchema({"type": "string", "pattern": "^https?://"})]
    """Address: `http(s)://host[:port]`. It may stand alone: `proxy: http://proxy.example:3128`."""
    username: str | None = None
    """Name at the proxy, sent by `Proxy-Authorization: Basic` (RFC 7617). If unset, nothing is sent."""
    password: str | None = None
    """Password at the proxy: `${NAME}` or `${file:PATH}`."""

    @model_validator(mode="before")
    @classmethod
    def _with_url(cls, value: Any) -> Any:
        return {"url": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _credentials(self) -> "Proxy":
        if (self.username is None) != (self.password is None):
            raise ValueError("`username` and `password` go together")
        for text in (self.username or "", self.password or ""):
            if any(ord(char) < 0x20 or ord(char) == 0x7F for char in text):
                raise ValueError("`username` and `password` must not contain control characters or line breaks")
        if ":" in (self.username or ""):
            raise ValueError("`username` must not contain a colon: it ends the name (RFC 7617 section 2)")
        return self


class OAuth2(Model):
    """A bearer token from the client credentials grant (RFC 6749 section 4.4): fetched once, renewed before it expires."""

    token_url: URLWithQuery
    """Token endpoint of the authorization server. A query is kept (RFC 6749 section 3.2)."""
    client_id: str
    """The gateway's client id."""
    client_secret: str
    """The gateway's client secret: `${NAME}` or `${file:PATH}`."""
    client_auth: Literal["basic", "post"] = "basic"
    """How the client id and secret are sent: `basic` in an Authorization header, `post` in the form, for servers that do not support `basic`
    (RFC 6749 section 2.3.1)."""
    scope: str | None = None
    """Scopes, separated by spaces."""
    audience: str | None = None
    """Value of the `audience` parameter, if the authorization server requires one."""


class TokenExchange(Model):
    """A token for this upstream in exchange for the client's own (OAuth 2.0 Token Exchange, RFC 8693): fetched once for each client, renewed before it expires."""

    token_url: URLWithQuery
    """Token endpoint of the authorization server."""
    client_id: str
    """The gateway's client id."""
    client_secret: str
    """The gateway's client secret: `${NAME}` or `${file:PATH}`."""
    client_auth: Literal["basic", "post"] = "basic"
    """How the client id and secret are sent: `basic` in an Authorization header, `post` in the form (RFC 6749 section 2.3.1)."""
    audience: str | None = None
    """The service that the new token is for, as the authorization server calls it."""
    resource: URLWithQuery | None = None
    """The same as a URL (RFC 8707)."""
    scope: str | None = None
    """Scopes of the new token, separated by spaces."""
    subject_token_type: str = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - the kind of token
    """What the client's token is (RFC 8693 section 3)."""
    requested_token_type: str | None = None
    """What the new token is to be. If unset, the authorization server decides."""


class Pool(Model):
    """Kept-alive connections of an upstream."""

    max_idle: Count = Field(256, ge=0)
    """Idle connections kept for each address. 0: every connection is closed after its exchange."""
    idle_timeout_s: Duration = Field(30.0, alias="idle_timeout")
    """A connection that is idle for longer than this is closed. Keep it below the upstream's own idle timeout."""
    max_age_s: Duration = Field(600.0, alias="max_age")
    """A connection older than this is not reused, so that changes of DNS and load balancers take effect."""


class Upstream(Model):
    """A service that the gateway calls."""

    url: URL | None = None
    """Address: `http(s)://host[:port][/base]`. Set either `url` or `urls`."""
    urls: list[URL] | None = Field(None, min_length=1)
    """Addresses, if there are several."""
    balance: Literal["round_robin", "least_pending", "random", "peak_ewma"] = "round_robin"
    """How one of several addresses is chosen. `peak_ewma`: the better of two random ones by recent latency and load."""
    dns_ttl_s: Duration | None = Field(None, alias="dns_ttl")
    """Resolve the host names again after this time and use all of their addresses (for a headless Kubernetes service). If unset, the name is
    resolved for each new connection."""
    transport: Literal["wire", "httpx"] = "wire"
    """`wire`: the gateway's own HTTP/1.1 client. `httpx`: a stock connection pool behind httpx, for HTTP/2 and proxies."""
    http2: bool = False
    """Offer HTTP/2 (transport `httpx` only)."""
    proxy: Proxy | None = None
    """Forward proxy (transport `httpx` only): its address, or a mapping of the keys below."""
    host: Host | None = None
    """The Host header of every call: a fixed name such as `api.example`, or `client` for the one of the client's request. If unset, the URL's. Only
    the header changes: the address, and the name in TLS (`tls.server_name`), stay what they are."""
    timeout_s: Duration | None = Field(None, alias="timeout")
    """Maximum duration of one attempt. If unset, an attempt may use the time left until the deadline."""
    connect_timeout_s: Duration = Field(1.0, alias="connect_timeout")
    """Maximum wait for a connection."""
    concurrency: Concurrency = Concurrency()
    """The bulkhead around this upstream."""
    rate: Pace | None = None
    """How often the upstream is called at most: `50/1s`, or a mapping of the keys below. Calls wait for their turn. If unset, there is no limit."""
    retry: Retry | None = None
    """Further attempts of failed calls. Off by default."""
    hedge: Hedge | None = None
    """Second attempts of slow calls. Off by default."""
    breaker: Breaker | None = None
    """Circuit breaker. Off by default. With several addresses, each has its own."""
    headers: dict[HeaderName, HeaderValue] = {}
    """Header fields sent with every call. They override forwarded ones."""
    forward_headers: list[ForwardedHeader] = []
    """Header fields forwarded from the client's request, if present. `*`: all but those of the connection, of the body, conditions and credentials;
    a name beside it adds one of these back: `["*", authorization]`. See docs/headers.md."""
    forwarded: Forwarded = "append"
    """What the upstream is told of the client in `X-Forwarded-For`, `-Proto`, `-Host`, `-Prefix` and `Forwarded` (RFC 7239). `append`: what a trusted
    proxy in front of the gateway says (`ANABRANCH_TRUSTED_PROXIES`), and the gateway's own client behind it. `replace`: only what the gateway
    itself knows. `off`: nothing."""
    deadline_header: HeaderName | None = None
    """Header in which the upstream receives the time left, in milliseconds. Off by default."""
    max_response: Size = 10 * 1024 * 1024
    """Maximum size of a response body, after content decoding."""
    follow_redirects: int = Field(0, ge=0, le=10)
    """Maximum number of redirects to follow for GET and HEAD, on the same origin only. 0: a redirect is a failure."""
    encoded_slashes: Literal["keep", "refuse"] = "keep"
    """What happens to a value in a `path` that contains `/` or `\\`. `keep`: it is sent percent-encoded (`%2F`), as one segment. `refuse`: the
    step fails; for services that decode a path before they route by it. A value with `.` or `..` between slashes is always refused."""
    tls: TLS | None = None
    """TLS settings of https addresses."""
    oauth2: OAuth2 | None = None
    """Send a bearer token from an authorization server."""
    client_token: bool = False
    """Send the client's own token, as `Authorization: Bearer`. Only for endpoints whose clients prove who they are by a token."""
    token_exchange: TokenExchange | None = None
    """Send a token that an authorization server gives in exchange for the client's own. Only for endpoints whose clients prove who they are by a token."""
    pool: Pool = Pool()
    """Kept-alive connections."""

    @model_validator(mode="after")
    def _consistent(self) -> "Upstream":
        if (self.url is None) == (self.urls is None):
            raise ValueError("an upstream needs either `url` or `urls`, not both")
        if self.transport == "wire" and (self.http2 or self.proxy):
            raise ValueError("`http2` and `proxy` need `transport: httpx`")
        tokens = [key for key in ("oauth2", "client_token", "token_exchange") if getattr(self, key)]
        if len(tokens) > 1:
            raise ValueError(f"`{tokens[0]}` and `{tokens[1]}` both decide which token is sent")
        if self.host is not None and self.proxy is not None and any(address.scheme == "http" for address in self.addresses):
            # RFC 9112 section 3.2.2: a proxy replaces Host by the host of the whole URL that it is sent.
            raise ValueError("`host` has no effect on an http address behind a `proxy`: the proxy sends the URL's host")
        return self

    @property
    def addresses(self) -> tuple[Address, ...]:
        urls = self.urls if self.urls is not None else [self.url or ""]
        return tuple(Address.parse(url) for url in urls)
