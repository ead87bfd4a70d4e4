"""What a call passes on of the client's request beside its parameters and body: header fields, the query, the host.

**Source:** RFC 9110 sections 7.6.1 (fields of a connection), 13.1 and 14.2 (conditions and ranges), 7.2 (Host).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final
from urllib.parse import quote, unquote_plus

from anabranch.config.base import ALL
from anabranch.config.problems import Problems
from anabranch.core.field import OURS
from anabranch.core.forwarding import FORWARDING, is_host
from anabranch.plan.fields import report_header
from anabranch.plan.upstream import UpstreamPlan

PROPAGATED: Final = (b"x-request-id", b"traceparent", b"tracestate")
"""Fields that every upstream call carries."""
EXPLAIN: Final = "_explain"
"""The parameter of a client that is for the gateway."""

CREDENTIALS: Final = frozenset(
    {
        "authorization", "cookie", "proxy-authorization", "api-key", "apikey", "x-api-key", "x-auth-token", "x-access-token",
        "x-amz-security-token", "dpop", "client-cert", "client-cert-chain",
    }
)  # fmt: skip
"""Fields by which a client proves who it is."""
ADDRESSES: Final = frozenset(
    {"x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip", "cf-connecting-ip", "fastly-client-ip", "forwarded"}
)
"""Fields in which a proxy says who its client is, and everybody else can say the same. So do all `x-forwarded-*`."""
CONDITIONS: Final = frozenset(
    {
        "accept-encoding", "range", "if-range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "digest",
        "repr-digest",
    }
)  # fmt: skip
"""Fields about the gateway's own answer, or the client's own body. So are all `content-*`."""
_KEPT_BACK: Final = frozenset(
    name.encode() for name in (OURS | CREDENTIALS | ADDRESSES | CONDITIONS | {field.decode() for field in PROPAGATED})
)
_KEPT_BACK_FAMILIES: Final = (b"x-forwarded-", b"content-")
_RAW: Final = "".join(char for char in map(chr, range(0x21, 0x7F)) if char != "#")

ForwardAll = Callable[[Mapping[bytes, bytes]], list[tuple[bytes, bytes]]]
ForwardQuery = Callable[[bytes], str]
"""Takes the client's query, raw and without `?`. Returns what is passed on of it, in ASCII; "" for nothing."""


def compile_all(but: Collection[bytes]) -> ForwardAll:
    """A function that selects what `*` stands for. `but`: lower-case names that are sent in another way.

    CGI and WSGI take `_` for `-`, so a service may take a field with one for the field that is kept back.
    """
    left_out = _KEPT_BACK.union(but)

    def select(client: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        return [
            pair
            for pair in client.items()
            if pair[0] not in left_out
            and (plain := pair[0].replace(b"_", b"-")) not in left_out
            and not plain.startswith(_KEPT_BACK_FAMILIES)
        ]

    return select


def compile_forward_query(names: Sequence[str], own: Collection[str]) -> ForwardQuery | None:
    """A function that selects these parameters of a query, and keeps how they are written. `own`: names of the call's own query."""
    if not names:
        return None
    is_all = ALL in names
    wanted, without = frozenset(names), frozenset((*own, EXPLAIN))

    def select(raw: bytes) -> str:
        if not raw:
            return ""
        pairs = []
        for pair in quote(raw, safe=_RAW).split("&"):
            name = unquote_plus(pair.partition("=")[0])
            if pair and name not in without and (is_all or name in wanted):
                pairs.append(pair)
        return "&".join(pairs)

    return select


def compile_host(host: str | None) -> Callable[[Mapping[bytes, bytes]], bytes] | None:
    """A function from the client's header fields to the Host of a call; b"" for that of the address. None: always that."""
    if host is None:
        return None
    if host != "client":
        fixed = host.encode("ascii")
        return lambda _client: fixed

    def of_client(client: Mapping[bytes, bytes]) -> bytes:
        value = client.get(b"host", b"")
        return value if is_host(value) else b""

    return of_client


def report_forward_headers(at: tuple[str | int, ...], names: Sequence[str], upstream: UpstreamPlan, problems: Problems) -> None:
    """Report what is wrong with a list of header fields to forward."""
    ours = set() if upstream.forwarded == "off" else {name.decode() for name in FORWARDING}
    for index, name in enumerate(names):
        if name == ALL:
            continue
        if name.lower() == "host":
            problems.add((*at, index), "the header host cannot be forwarded by its name", hint="set `host: client` on the upstream")
            continue
        report_header((*at, index), name, "", problems)
        if name.lower() in ours:
            problems.add(
                (*at, index),
                f"{name.lower()} has no effect here: `forwarded: {upstream.forwarded}` sets this field",
                hint="trust the proxies in front (ANABRANCH_TRUSTED_PROXIES), or set `forwarded: off` to pass on what any client sends",
                is_warning=True,
            )
