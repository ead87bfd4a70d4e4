"""The key under which the answer to a request is stored.

It has the target and the host (a HEAD is answered from the answer to a GET), whatever the document adds, and the principal, unless its rule says that the answer is the same for all. Of the request's own
fields it has those that the document computes or lists, and the host, scheme and prefix by which the service is told that it is reached; other fields count where the answer's
`Vary` names them. So no header field that a client chooses can bring an answer to others which it did not ask the service for in the document's own words.
"""

from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

from anabranch.cache.entry import Variants
from anabranch.cache.fields import normalised
from anabranch.cache.rule import Caching
from anabranch.core.exchange import Request
from anabranch.core.forwarding import CHAINS, FORWARDING
from anabranch.core.principal import Principal

OF_THE_REQUEST: Final = CHAINS.union((b"x-request-id", b"traceparent", b"tracestate"))
"""Fields that say which request it is, or at which address its client is."""
REACHED_BY: Final = frozenset(FORWARDING) - CHAINS
"""Fields that say how the client reaches the gateway. An answer may have links that are made of them."""


def key_of(request: Request, caching: Caching, principal: Principal | None) -> bytes:
    """Each part that may have any bytes comes with its length, so that no two different requests have one key."""
    parts = [caching.prefix, b" ".join((request.target.encode("latin-1"), request.host))]
    keyed = caching.keyed
    for name, value in request.extra:
        if name in keyed if keyed is not None else name not in OF_THE_REQUEST:
            parts.append(b"%b:%d:%b" % (name, len(value), value))
    if keyed is None:
        # The request as it was sent.
        parts.append(b"*%d:%b" % (len(request.headers.wire), request.headers.wire))
        if isinstance(request.body, bytes):
            parts.append(b"!%d:%b" % (len(request.body), request.body))
    if principal is not None and not caching.rule.is_public:
        parts.append(b"=%d:%b" % (len(principal.identity), principal.identity))
    if caching.extra:
        parts.append(b"+%d:%b" % (len(caching.extra), caching.extra))
    return b"\n".join(parts)


def varying(names: Iterable[bytes], request: Request, caching: Caching) -> list[bytes]:
    """Those of the fields that `Vary` names in which two requests with the same key can differ: most steps send nothing of the client that is not part of the key."""
    same = {name for name, _ in request.headers.pairs}.union(caching.keyed or ())
    return [name for name in names if name not in same and (caching.is_open or name in OF_THE_REQUEST)]


def variant_key(variants: Variants, request: Request) -> bytes:
    """The key of the answer to this request where answers differ by header fields (RFC 9111 section 4.1)."""
    pairs = (*request.headers.pairs, *request.extra)
    parts = [variants.key]
    for name in variants.names:
        value = normalised(pairs, name)
        parts.append(b"~%b" % name if value is None else b"~%b:%d:%b" % (name, len(value), value))
    return b"\n".join(parts)


def recorded_origin(origin: str, request: Request) -> str:
    """What a record keeps of a call's header fields: `origin` (`Caching.origin`), and a digest of the host, scheme and prefix by which the service is
    told that it is reached, since its answer may differ by them. The client's address is not part of it."""
    told = [value for pair in request.extra if pair[0] in REACHED_BY for value in pair]
    return f"{origin}/{blake2b(bytes((0,)).join(told), digest_size=6).hexdigest()}" if told else origin


def recorded_key(origin: str, method: str, target: str) -> bytes:
    """The key of a response read from the journal, which keeps no request header fields. Only for calls whose fields are all fixed by the
    document. `origin`: see `recorded_origin`."""
    return f"recorded\0{origin}\0{method}\0{target}".encode()
