"""An upstream compiled: every default filled in, every name in the form it has on the wire. Behind it nobody reads the document."""

import math
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from anabranch.config import model as config
from anabranch.config.units import format_frequency
from anabranch.core.exchange import Address
from anabranch.core.forwarding import Forwarded

Balance = Literal["round_robin", "least_pending", "random", "peak_ewma"]
_SMOOTH_S: Final = 0.02
"""What a pace allows in this time may go out at once: timers are not exact, and without it a fast pace would lose turns."""
FailureKind = Literal["5xx", "timeout", "connect", "connection_lost", "protocol_error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkheadPlan:
    """`limit`: exchanges at once; with `adaptive` where the search begins, between `minimum` and `maximum`. `queue`: calls that may wait.
    `queue_timeout_s`: longest wait; None: until the call's deadline."""

    limit: int
    queue: int
    queue_timeout_s: float | None
    adaptive: Literal["gradient", "aimd"] | None
    minimum: int
    maximum: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPlan:
    """`attempts`: in all, at least 2. `on`: what is tried again. `backoff_s`, `max_backoff_s`: see `core.backoff`. `budget`: share of calls."""

    attempts: int
    on: tuple[str, ...]
    backoff_s: float
    max_backoff_s: float
    budget: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgePlan:
    """`after`: seconds, or a quantile of this upstream's latency such as `p95`. `budget`: share of calls."""

    after: float | str
    budget: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPlan:
    """Parameters of `core.breaker.Breaker`: durations in seconds, rates between 0 and 1. `slow_after_s`: None: no call counts as slow."""

    window_s: float
    failure_rate: float
    minimum_calls: int
    open_for_s: float
    probes: int
    slow_after_s: float | None
    slow_rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PacePlan:
    """At most `count` calls in each `period_s` seconds, and `burst` at once after a pause. `text`: as written."""

    count: int
    period_s: float
    burst: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSPlan:
    """Files are PEM, by path. `ca`: None: the system's authorities. `server_name`: None: the host of the address."""

    ca: str | None
    cert: str | None
    key: str | None
    server_name: str | None
    min_version: Literal["1.2", "1.3"]
    verify: bool

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(file for file in (self.ca, self.cert, self.key) if file is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuth2Plan:
    """Tokens from an authorization server at `token_url`. `form`: of a request for one, without the credentials of the gateway and the client's token. `is_exchange`: a token for
    each client, in exchange for its own."""

    token_url: str
    client_id: str
    client_secret: str
    client_auth: Literal["basic", "post"]
    form: dict[str, str]
    is_exchange: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyPlan:
    """A forward proxy. `username`: None: it is told no credentials."""

    address: Address
    username: str | None
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionPoolPlan:
    """Kept-alive connections. `max_idle`: of each address; 0: none is kept. An idle one is closed after `idle_timeout_s`, and none is used again
    that is older than `max_age_s`."""

    max_idle: int
    idle_timeout_s: float
    max_age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamPlan:
    """A service that we call.

    `addresses`: at least one. `allows_encoded_slashes`: values in its paths may contain `/` and `\\`, percent-encoded. `dns_ttl_s`: how often
    their names are resolved anew; None: at each new connection. `timeout_s`: of one attempt; None: what is left of the deadline.
    `failures`: what counts as a failure of the service, for its breakers and for ejection.
    `host`: of its Host header; `client`: the client's; None: of the address. `forward_headers`: names as written. `forwarded`: what it is told of
    the client. `deadline_header`: lower case. `max_response_bytes`: after content decoding. `follow_redirects`: 0: none.
    A policy that the document does not set is None. `has_cached_calls`: a call to it may be answered with an earlier answer. `has_judged_calls`: a good
    answer of it may count as a failure.
    `sends_client_token`: the client's own one. `is_authority`: it only issues tokens for the upstream of this name.
    """

    name: str
    addresses: tuple[Address, ...]
    balance: Balance
    dns_ttl_s: float | None
    allows_encoded_slashes: bool
    transport: Literal["wire", "httpx"]
    http2: bool
    proxy: ProxyPlan | None
    host: str | None
    timeout_s: float | None
    connect_timeout_s: float
    bulkhead: BulkheadPlan
    pace: PacePlan | None
    retry: RetryPlan | None
    hedge: HedgePlan | None
    breaker: BreakerPlan | None
    failures: tuple[FailureKind, ...]
    headers: dict[str, str]
    forward_headers: tuple[str, ...]
    forwarded: Forwarded
    deadline_header: bytes | None
    max_response_bytes: int
    follow_redirects: int
    tls: TLSPlan | None
    oauth2: OAuth2Plan | None
    sends_client_token: bool
    pool: ConnectionPoolPlan
    has_cached_calls: bool = False
    has_judged_calls: bool = False
    is_authority: bool = False

    @property
    def is_balanced(self) -> bool:
        """Whether an address is chosen for each attempt."""
        return len(self.addresses) > 1 or self.dns_ttl_s is not None

    @property
    def tells_client(self) -> bool:
        """Whether its calls carry something of the client's credential."""
        return self.sends_client_token or (self.oauth2 is not None and self.oauth2.is_exchange)

    @property
    def is_secure(self) -> bool:
        return any(address.scheme == "https" for address in self.addresses)


def compile_upstream(
    name: str, upstream: config.Upstream, *, has_cached_calls: bool = False, has_judged_calls: bool = False
) -> UpstreamPlan:
    """The plan of an upstream that its models accept."""
    bulkhead = upstream.concurrency
    return UpstreamPlan(
        name=name,
        addresses=upstream.addresses,
        balance=upstream.balance,
        dns_ttl_s=upstream.dns_ttl_s,
        allows_encoded_slashes=upstream.encoded_slashes == "keep",
        transport=upstream.transport,
        http2=upstream.http2,
        proxy=_proxy(upstream.proxy),
        host=upstream.host,
        timeout_s=upstream.timeout_s,
        connect_timeout_s=upstream.connect_timeout_s,
        bulkhead=BulkheadPlan(
            limit=bulkhead.limit,
            queue=bulkhead.queue,
            queue_timeout_s=bulkhead.queue_timeout_s,
            adaptive=bulkhead.adaptive,
            minimum=bulkhead.min,
            maximum=bulkhead.max,
        ),
        pace=_pace(upstream.rate),
        retry=_retry(upstream.retry),
        hedge=None if upstream.hedge is None else HedgePlan(after=upstream.hedge.after, budget=upstream.hedge.budget),
        breaker=_breaker(upstream.breaker),
        failures=tuple((upstream.breaker or config.Breaker()).on),
        headers=dict(upstream.headers),
        forward_headers=tuple(upstream.forward_headers),
        forwarded=upstream.forwarded,
        deadline_header=None if upstream.deadline_header is None else upstream.deadline_header.lower().encode(),
        max_response_bytes=upstream.max_response,
        follow_redirects=upstream.follow_redirects,
        tls=None if upstream.tls is None else compile_tls(upstream.tls),
        oauth2=_oauth2(upstream.oauth2) if upstream.token_exchange is None else _exchange(upstream.token_exchange),
        sends_client_token=upstream.client_token,
        pool=_pool(upstream.pool),
        has_cached_calls=has_cached_calls,
        has_judged_calls=has_judged_calls,
    )


def _retry(retry: config.Retry | None) -> RetryPlan | None:
    """None where there is nothing to repeat: a single attempt is no retry."""
    if retry is None or retry.attempts == 1:
        return None
    return RetryPlan(
        attempts=retry.attempts,
        on=tuple(retry.on),
        backoff_s=retry.backoff_s,
        max_backoff_s=retry.max_backoff_s,
        budget=retry.budget,
    )


def _pace(pace: config.Pace | None) -> PacePlan | None:
    if pace is None:
        return None
    count, period_s = pace.limit
    burst = pace.burst or max(1, math.ceil(count / period_s * _SMOOTH_S - 1e-9))
    return PacePlan(count=count, period_s=period_s, burst=burst, text=format_frequency(pace.limit))


def _breaker(breaker: config.Breaker | None) -> BreakerPlan | None:
    if breaker is None:
        return None
    return BreakerPlan(
        window_s=breaker.window_s,
        failure_rate=breaker.failure_rate,
        minimum_calls=breaker.minimum_calls,
        open_for_s=breaker.open_for_s,
        probes=breaker.probes,
        slow_after_s=breaker.slow_after_s,
        slow_rate=breaker.slow_rate,
    )


def _proxy(proxy: config.Proxy | None) -> ProxyPlan | None:
    return None if proxy is None else ProxyPlan(address=Address.parse(proxy.url), username=proxy.username, password=proxy.password or "")


def _pool(pool: config.Pool) -> ConnectionPoolPlan:
    return ConnectionPoolPlan(max_idle=pool.max_idle, idle_timeout_s=pool.idle_timeout_s, max_age_s=pool.max_age_s)


def compile_tls(tls: config.TLS) -> TLSPlan:
    # RFC 6066 section 3: a server name has no trailing dot.
    server_name = None if tls.server_name is None else tls.server_name.removesuffix(".")
    return TLSPlan(ca=tls.ca, cert=tls.cert, key=tls.key, server_name=server_name, min_version=tls.min_version, verify=tls.verify)


def _oauth2(oauth2: config.OAuth2 | None) -> OAuth2Plan | None:
    """Client credentials (RFC 6749 section 4.4)."""
    if oauth2 is None:
        return None
    form = {"grant_type": "client_credentials", "scope": oauth2.scope, "audience": oauth2.audience}
    return _tokens(oauth2, form)


def _exchange(exchange: config.TokenExchange) -> OAuth2Plan:
    """**Source:** RFC 8693 section 2.1."""
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token_type": exchange.subject_token_type,
        "requested_token_type": exchange.requested_token_type,
        "audience": exchange.audience,
        "resource": exchange.resource,
        "scope": exchange.scope,
    }
    return replace(_tokens(exchange, form), is_exchange=True)


def _tokens(source: config.OAuth2 | config.TokenExchange, form: dict[str, str | None]) -> OAuth2Plan:
    return OAuth2Plan(
        token_url=source.token_url,
        client_id=source.client_id,
        client_secret=source.client_secret,
        client_auth=source.client_auth,
        form={name: value for name, value in form.items() if value is not None},
    )


def authority_of(upstream: UpstreamPlan, *, max_response_bytes: int) -> UpstreamPlan:
    """The authority that issues the upstream's tokens, as an upstream of its own: the upstream's client certificate, server name and trust are
    not meant for it."""
    assert upstream.oauth2 is not None
    return authority_at(upstream.oauth2.token_url, name=upstream.name, max_response_bytes=max_response_bytes)


def authority_at(url: str, *, name: str, max_response_bytes: int, tls: config.TLS | None = None) -> UpstreamPlan:
    """The authority at `url`. `name`: of what needs it. `tls`: None: the defaults."""
    address, _ = Address.parse_target(url)
    made = compile_upstream(name, config.Upstream(url=address.origin, tls=tls))
    return replace(made, addresses=(address,), max_response_bytes=max_response_bytes, is_authority=True)


DEFAULT_POOL: Final = _pool(config.Pool())
DEFAULT_TLS: Final = compile_tls(config.TLS())
