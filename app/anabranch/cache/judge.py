"""Decides what a shared cache may store, for how long, and what it may answer with. Pure: the clock is passed in, nothing is kept.

Each rule names its section of RFC 9111 where no other document is named. Times are seconds since the epoch.
"""

from collections.abc import Iterable
from enum import Enum
from typing import Final
from urllib.parse import SplitResult, urljoin, urlsplit

import msgspec

from anabranch.cache.entry import Entry
from anabranch.cache.fields import (
    MOST_S,
    TARGETED,
    Directives,
    Pairs,
    age,
    date,
    directives,
    first_date,
    is_about_all,
    lines,
    names,
    seconds,
    split,
    targeted,
    varies_by,
)
from anabranch.cache.rule import Rule, Wanted
from anabranch.core.exchange import DEFAULT_PORTS, Address, Answer, Request

SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods that change nothing (RFC 9110 section 9.2.1)."""
HEURISTIC: Final = frozenset({200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501})
"""Statuses that may be fresh without anybody saying so (RFC 9110 section 15.1), without 206: parts are not stored."""
NEGATIVE: Final = frozenset({404, 405, 410, 414, 501})
"""Of these, the ones that say that something is not there."""
UNDERSTOOD: Final = HEURISTIC | frozenset({302, 303, 307, 400, 401, 403, 406, 409, 415, 421, 422, 429, 451, 500, 502, 503, 504})
"""Statuses whose caching is understood, for `must-understand` (section 5.2.2.3)."""
VALIDATORS: Final = frozenset({b"if-none-match", b"if-modified-since", b"if-match", b"if-unmodified-since", b"if-range"})
_NEVER_STORED: Final = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authentication-info", b"proxy-authorization", b"te", b"trailer",
        b"transfer-encoding", b"upgrade", b"set-cookie", b"set-cookie2",
    }
)  # fmt: skip
"""Section 3.1; and cookies, which are for the client to whom the answer was sent (section 7.3)."""
_NEVER_UPDATED: Final = frozenset({b"content-length", b"content-encoding", b"content-range"})
"""Section 3.2: what the stored body depends on."""
_INEXACT_S: Final = 2.0
"""Dates have whole seconds, and many servers renew theirs only once a second: a new answer may look almost two seconds old."""
_MOST_HEURISTIC_S: Final = 86400.0
"""Section 4.2.2: of what nobody has said how long it is fresh, nobody should be served for more than a day."""


class Storing(msgspec.Struct, frozen=True):
    """What becomes of an answer. `entry`: what to store; None: nothing, and `why` says why in a word. `varies_by`: the request's fields by which entries differ. `fresh_until_s`: whatever is stored.
    `is_private`, `is_no_store`: what the service says."""

    entry: Entry | None
    why: str
    fresh_until_s: float
    since_s: float
    varies_by: tuple[bytes, ...] = ()
    is_private: bool = False
    is_no_store: bool = False


def judge(request: Request, answer: Answer, rule: Rule, *, success: frozenset[int], requested_s: float, received_s: float) -> Storing:
    """Whether `answer` to `request` may be stored, and for how long it is fresh. The entry has no key, upstream and tags yet.

    `success`: statuses of good answers. `requested_s`, `received_s`: when the request was sent, and when the answer was there.
    """
    found = said(answer)
    control = found.control
    since_s = generated_at(answer.headers, requested_s=requested_s, received_s=received_s)
    is_no_store = b"no-store" in control and not (b"must-understand" in control and answer.status in UNDERSTOOD)
    is_private = is_about_all(control, b"private")
    varied = varies_by(answer.headers)
    lifetime = _lifetime_s(answer, found, rule, success=success, received_s=received_s)
    fresh_until_s = 0.0 if lifetime is None or is_about_all(control, b"no-cache") else since_s + lifetime
    why = _hindrance(request, answer, control, rule, is_no_store=is_no_store, is_private=is_private, varied=varied)
    if rule.is_fallback:
        fresh_until_s, lifetime = 0.0, None
    must_revalidate = not rule.is_fallback and not _may_be_stale(control)
    revalidate_s = 0.0 if must_revalidate else _window(control, b"stale-while-revalidate", rule.stale_while_revalidate_s)
    error_s = 0.0 if must_revalidate else _window(control, b"stale-if-error", rule.stale_if_error_s)
    etag, modified = _first(answer.headers, b"etag"), _first(answer.headers, b"last-modified")
    if not why and lifetime is None:
        if rule.is_fallback:
            why = "" if answer.status in success else "status"
        elif answer.status not in HEURISTIC or not (etag or modified):
            # Section 3: without freshness only what can be validated is worth its place.
            why = "no-freshness"
    stale_from_s = since_s if lifetime is None else since_s + lifetime
    entry = None if why else Entry(
        b"", "", "", _storable(answer, control), requested_s, since_s, fresh_until_s,
        stale_from_s + revalidate_s if revalidate_s else 0.0, stale_from_s + error_s if error_s else 0.0,
        lifetime is not None, must_revalidate, etag, modified, was_stale=fresh_until_s <= received_s,
    )  # fmt: skip
    return Storing(entry, why, fresh_until_s, since_s, varied or (), is_private=is_private, is_no_store=is_no_store or varied is None)


class Said(msgspec.Struct, frozen=True):
    """What the service says of caching. `is_targeted`: in a field for caches like this one; then Cache-Control and Expires do not count."""

    control: Directives
    is_targeted: bool


def said(answer: Answer) -> Said:
    """RFC 9213 section 2.2: a valid targeted field replaces Cache-Control and Expires."""
    for name, _ in answer.headers:
        if name == TARGETED:
            found = targeted(lines(answer.headers, TARGETED))
            if found is not None:
                return Said(found, True)
            break
    return Said(directives(lines(answer.headers, b"cache-control")), False)


def _hindrance(
    request: Request,
    answer: Answer,
    control: Directives,
    rule: Rule,
    *,
    is_no_store: bool,
    is_private: bool,
    varied: tuple[bytes, ...] | None,
) -> str:
    """Why the answer must not be stored, in a word; "" when it may be."""
    status = answer.status
    if request.method != "GET":
        return "method"  # section 3: only what is understood; a HEAD freshens entries
    if status in (206, 304) or any(name == b"content-range" for name, _ in answer.headers):
        return "partial"  # section 3.3: parts are not combined here
    if is_no_store:
        return "no-store"  # section 5.2.2.5
    if rule.is_fallback:
        return ""
    if b"must-understand" in control and status not in UNDERSTOOD:
        return "status"  # section 5.2.2.3
    if is_private:
        return "private"  # section 5.2.2.7
    if varied is None:
        return "vary"  # section 4.1
    is_authorized = rule.has_client_token or any(name == b"authorization" for name, _ in request.extra)
    if is_authorized and not {b"public", b"s-maxage", b"must-revalidate"} & control.keys():
        return "authorization"  # section 3.5; the document's own credentials are the gateway's, and not the client's
    return ""


def _lifetime_s(answer: Answer, found: Said, rule: Rule, *, success: frozenset[int], received_s: float) -> float | None:
    """Section 4.2.1: how long the answer is fresh after it was generated; None if neither the service nor the document says so."""
    control = found.control
    for name in (b"s-maxage", b"max-age"):
        if (lifetime := seconds(control, name)) is not None:
            return lifetime
    if not found.is_targeted and (expires := lines(answer.headers, b"expires")):
        dates = [date(value, received_s) for value in expires]
        generated = first_date(answer.headers, b"date", received_s)
        # Section 5.3: an invalid date, such as 0, is in the past.
        return min(-1.0 if moment is None else moment - (received_s if generated is None else generated) for moment in dates)
    if b"no-cache" in control and is_about_all(control, b"no-cache"):
        return None
    ttl_s = rule.negative_s if answer.status in NEGATIVE and answer.status not in success else rule.ttl_s
    is_plain = not any(name == b"set-cookie" for name, _ in answer.headers)
    if ttl_s is not None and is_plain and (answer.status in HEURISTIC or answer.status in success):
        return ttl_s
    if rule.heuristic and is_plain and (answer.status in HEURISTIC or b"public" in control):
        # Section 4.2.2.
        modified = first_date(answer.headers, b"last-modified", received_s)
        generated = first_date(answer.headers, b"date", received_s)
        if modified is not None:
            return min(max(((received_s if generated is None else generated) - modified) * rule.heuristic, 0.0), _MOST_HEURISTIC_S)
    return None


def generated_at(pairs: Pairs, *, requested_s: float, received_s: float) -> float:
    """When the answer was generated (section 4.2.3): the time of its arrival minus its corrected initial age."""
    dated = first_date(pairs, b"date", received_s)
    apparent_s = 0.0 if dated is None else max(received_s - dated, 0.0)
    if apparent_s < _INEXACT_S:
        apparent_s = 0.0
    return received_s - max(apparent_s, age(pairs) + max(received_s - requested_s, 0.0))


def _may_be_stale(control: Directives) -> bool:
    """Section 4.2.4: whether no directive forbids to serve it stale."""
    return not {b"must-revalidate", b"proxy-revalidate", b"s-maxage"} & control.keys() and not is_about_all(control, b"no-cache")


def _window(control: Directives, name: bytes, otherwise_s: float | None) -> float:
    """RFC 5861 sections 3 and 4: for how long it may be served stale."""
    window_s = seconds(control, name)
    return window_s if window_s is not None else otherwise_s or 0.0


def _storable(answer: Answer, control: Directives) -> Answer:
    """Section 3.1: the answer without the fields that must not be stored, and sections 5.2.2.4 and 5.2.2.7: without those that must not be reused."""
    left_out = _NEVER_STORED.union(names(control, b"private"), names(control, b"no-cache"), _of_connection(answer.headers))
    if not any(name in left_out for name, _ in answer.headers):
        return answer
    return Answer(answer.status, [pair for pair in answer.headers if pair[0] not in left_out], answer.body)


def _of_connection(pairs: Pairs) -> Iterable[bytes]:
    return (member.lower() for value in lines(pairs, b"connection") for member in split(value))


def _first(pairs: Pairs, name: bytes) -> bytes:
    return next((value for key, value in pairs if key == name), b"")


class Use(Enum):
    """What may be done with an entry."""

    FRESH = "fresh"
    STALE = "stale"  # it may be served, while it is validated
    ASK = "ask"  # the service has to be asked first


def use_of(entry: Entry, wanted: Wanted | None, now: float) -> Use:
    """Section 4: whether the entry may be the answer to a request that it matches."""
    if wanted is None:
        if now < entry.fresh_until_s:
            return Use.FRESH
        return Use.STALE if now < entry.revalidate_until_s else Use.ASK
    fresh_s, age_s = entry.fresh_until_s - now, now - entry.since_s
    if wanted.no_cache or wanted.no_store:
        return Use.ASK  # sections 5.2.1.4 and 5.2.1.5
    if wanted.max_age_s is not None and age_s > wanted.max_age_s:
        return Use.ASK  # section 5.2.1.1
    if wanted.min_fresh_s is not None and fresh_s < wanted.min_fresh_s:
        return Use.ASK  # section 5.2.1.3
    if fresh_s > 0:
        return Use.FRESH
    if wanted.max_stale_s is not None and entry.fresh_until_s and not entry.must_revalidate and -fresh_s <= wanted.max_stale_s:
        return Use.FRESH  # section 5.2.1.2
    return Use.STALE if now < entry.revalidate_until_s else Use.ASK


def wanted_of(control: bytes | None, pragma: bytes | None) -> Wanted | None:
    """The request directives of a client; None if it has none. `pragma` counts only without Cache-Control (section 5.4)."""
    if control is None:
        return Wanted(no_cache=True) if pragma is not None and b"no-cache" in directives([pragma]) else None
    found = directives([control])
    max_stale_s = seconds(found, b"max-stale")
    return Wanted(
        no_cache=b"no-cache" in found,
        no_store=b"no-store" in found,
        only_if_cached=b"only-if-cached" in found,
        max_age_s=seconds(found, b"max-age"),
        min_fresh_s=seconds(found, b"min-fresh"),
        max_stale_s=float(MOST_S) if found.get(b"max-stale") == [None] else max_stale_s,
    )


def conditional(request: Request, entry: Entry) -> Request:
    """Section 4.3.1: the request that asks whether the entry still holds. The client's own conditions are replaced."""
    conditions = []
    if entry.etag:
        conditions.append((b"if-none-match", entry.etag))
    if entry.last_modified:
        conditions.append((b"if-modified-since", entry.last_modified))
    extra = tuple(pair for pair in request.extra if pair[0] not in VALIDATORS)
    return msgspec.structs.replace(request, extra=(*extra, *conditions))


def unconditional(request: Request) -> Request:
    """The request without conditions of the client: its answer is for everybody."""
    if not any(name in VALIDATORS for name, _ in request.extra):
        return request
    return msgspec.structs.replace(request, extra=tuple(pair for pair in request.extra if pair[0] not in VALIDATORS))


def freshened(entry: Entry, answer: Answer) -> Answer | None:
    """Section 4.3.4: the stored answer with what a 304, or a 200 to a HEAD (section 4.3.5), says anew; None if that is about another answer."""
    etag, modified = _first(answer.headers, b"etag"), _first(answer.headers, b"last-modified")
    if etag and entry.etag:
        if not is_same_tag(etag, entry.etag):
            return None
    elif modified and entry.last_modified and modified != entry.last_modified:
        return None
    # Section 3.2. Fields that are in the 304 replace all stored ones of that name.
    kept_back = _NEVER_STORED.union(_NEVER_UPDATED, _of_connection(answer.headers))
    new = [pair for pair in answer.headers if pair[0] not in kept_back]
    # Without an age and a date of its own, the 304 says that the answer is valid now.
    replaced = {name for name, _ in new} | {b"age", b"date"}
    stored = entry.answer
    return Answer(stored.status, [*(pair for pair in stored.headers if pair[0] not in replaced), *new], stored.body)


def is_same_tag(one: bytes, other: bytes) -> bool:
    """Weak comparison (RFC 9110 section 8.8.3.2)."""
    return one.removeprefix(b"W/") == other.removeprefix(b"W/")


def describes(entry: Entry, head: Answer) -> bool:
    """Section 4.3.5: whether the answer to a HEAD is about the stored answer. False: the stored one is out of date."""
    length = _first(head.headers, b"content-length")
    stored = _first(entry.answer.headers, b"content-length")
    return not (length and stored and length != stored) and freshened(entry, head) is not None


def invalidated(request: Request, answer: Answer, address: Address | None) -> tuple[str, ...]:
    """Section 4.4: the targets whose entries a successful unsafe request makes out of date: its own, and those that the answer names on the same origin."""
    if request.method in SAFE or not 200 <= answer.status < 400:
        return ()
    targets = [request.target]
    for name in (b"location", b"content-location"):
        for value in lines(answer.headers, name):
            target = _target(value.decode("latin-1"), request, address)
            if target is not None:
                targets.append(target)
    return tuple(dict.fromkeys(targets))


def _target(location: str, request: Request, address: Address | None) -> str | None:
    """The target on the service that a URL reference leads to; None for another origin."""
    base = "" if address is None else address.base_path
    try:
        parts = urlsplit(location)
        if parts.netloc:
            if not _is_same_origin(parts, request, address):
                return None
        elif parts.scheme:
            return None
        else:
            parts = urlsplit(urljoin(base + request.target, location))
    except ValueError:
        return None
    target = parts.path or "/"
    if base and target.startswith(base + "/"):
        target = target[len(base) :]
    return f"{target}?{parts.query}" if parts.query else target


def _is_same_origin(parts: SplitResult, request: Request, address: Address | None) -> bool:
    """Whether a URL is of the service: at its address, or at a host by which it has been asked. Raises ValueError for an invalid port."""
    told = [request.host, *(value for name, value in request.extra if name == b"x-forwarded-host")]
    if parts.netloc.lower().encode("latin-1", "replace") in [host.lower() for host in told]:
        return True
    if address is None:
        return False
    scheme = parts.scheme or address.scheme
    return (parts.hostname, scheme, parts.port or DEFAULT_PORTS.get(scheme)) == (address.host.lower(), address.scheme, address.port)


def path_of(target: str) -> str:
    """The path of a target, without its query."""
    return target.partition("?")[0]
