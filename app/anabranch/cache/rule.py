"""What the document says of the caching of a call."""

from collections.abc import Callable

import msgspec

from anabranch.core.exchange import Answer


class Rule(msgspec.Struct, frozen=True):
    """`ttl_s`: how long an answer is fresh of which the service says nothing; None: not at all. `negative_s`: the same for answers that something is not there.
    `heuristic`: share of the time since its last change for which an answer is fresh of which nobody says anything (RFC 9111 section 4.2.2); 0: never.
    `stale_while_revalidate_s`, `stale_if_error_s`: where the service says nothing (RFC 5861); None: not at all. `is_public`: entries are shared by all principals.
    `has_client_token`: a token of the client is added to the request where no layer outside sees it. `obeys_client`: the client's request directives count (RFC 9111 section 5.2.1).

    `is_fallback`: the call is no HTTP cache: its good answers are kept only for its own failures, whatever freshness they have, unless they must not be stored.
    `stale_if_error_s` is their greatest age then.
    """

    ttl_s: float | None = None
    negative_s: float | None = None
    heuristic: float = 0.0
    stale_while_revalidate_s: float | None = None
    stale_if_error_s: float | None = None
    is_public: bool = False
    obeys_client: bool = False
    has_client_token: bool = False
    is_fallback: bool = False


class Wanted(msgspec.Struct, frozen=True):
    """The request directives of a client (RFC 9111 section 5.2.1). Seconds; None: not limited."""

    no_cache: bool = False
    no_store: bool = False
    only_if_cached: bool = False
    max_age_s: float | None = None
    min_fresh_s: float | None = None
    max_stale_s: float | None = None


class Caching(msgspec.Struct, frozen=True):
    """How one call is cached. `rule`: of its step. `prefix`: of its key: what is the same in every request of the step. `keyed`: names of the request's own header fields whose
    values are part of the key; None: all but those that identify the request. `extra`: what the document adds to the key. `wanted`: None where the client's
    directives do not count, or it has none. `origin`: digest of the fixed parts of the call (its step and its upstream in the document), for
    answers that come from the journal; "" where those could not be matched. `fault_of`: the code of the failure that the step would have with a response of
    status 2xx; "" for none. `tags_of`: the tags of an answer.
    `is_judged`: the document may refuse its answers. `is_open`: the request may have any field of the client, not only listed ones."""

    rule: Rule
    prefix: bytes
    fault_of: Callable[[Answer], str]
    keyed: frozenset[bytes] | None = frozenset()
    extra: bytes = b""
    wanted: Wanted | None = None
    origin: str = ""
    tags_of: Callable[[Answer], tuple[str, ...]] | None = None
    is_judged: bool = False
    is_open: bool = True
