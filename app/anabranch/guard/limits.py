"""Decides by the rate limits of an endpoint whether a request comes too soon.

Limits that are decided at the same time, in the same store and with the same cost are one guard: one decision, in which all of them take or none does.

**Source:** RFC 6585 section 4 (429); draft-ietf-httpapi-ratelimit-headers-10 (`RateLimit`, `RateLimit-Policy`).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final, Literal

import msgspec

from anabranch.core.cookies import parse_cookies
from anabranch.core.percent import parse_query
from anabranch.core.rate import Bucket, Rate, Verdict, all_allowed, given_back, whole_seconds
from anabranch.engine.request import ClientRequest
from anabranch.errors import RateLimited, Unavailable
from anabranch.guard.guarding import Guarding
from anabranch.guard.tally import Tally
from anabranch.plan.limits import KeyPlan, LimitPlan, PolicyPlan
from anabranch.plan.model import EndpointPlan
from anabranch.store.seam import Store, StoreAway

_MOST_KEY_BYTES: Final = 64
_SEPARATOR: Final = b", "

Read = Callable[[ClientRequest], bytes | None]
"""One of the values that requests are counted by; None when a request has none."""


class _Counted:
    """One count of a limit. `key`: what the keys of its buckets begin with. A rate that a reload changes begins anew."""

    __slots__ = ("key", "limit", "policy", "rate", "shown")

    def __init__(self, limit: LimitPlan, policy: PolicyPlan, workers: int) -> None:
        self.limit = limit
        rate = policy.rate
        self.rate = rate if limit.is_shared else _share(rate, workers)
        kind = "quota" if rate.is_quota else "rate"
        self.key = f"limit:{limit.name}:{kind}:{policy.count}/{policy.window_s:g}:".encode()
        self.policy = f'"{policy.shown}";q={policy.count};w={max(1, math.ceil(policy.window_s))}'.encode()
        self.shown = f'"{policy.shown}"'.encode()


def _share(rate: Rate, workers: int) -> Rate:
    """The part of a limit that one of several workers has: at least 1."""
    count = max(1.0, rate.count / workers)
    if rate.is_quota:
        count = float(int(count))
    return Rate(count, rate.period_s, count if rate.is_quota else max(1, int(rate.capacity / workers)), rate.is_quota)


class LimitGuard:
    """Takes from the buckets of a request in one store. `tally`: counts what each limit admits and rejects."""

    def __init__(self, limits: Sequence[LimitPlan], store: Store, *, tally: Tally, workers: int) -> None:
        self.stage: Literal["head", "parameters", "body"] = limits[0].stage
        self._store = store
        self._tally = tally
        self._counted = [_Counted(limit, policy, workers) for limit in limits for policy in limit.policies]
        self._key_of = [_key_reader(counted.limit.by) for counted in self._counted]
        self._names = [limit.name for limit in limits]
        self._cost = limits[0].cost
        self._cost_slot = limits[0].cost_slot
        self._most = min(counted.rate.capacity for counted in self._counted)
        self._shown = [counted.limit.is_shown for counted in self._counted]
        self._policy = _SEPARATOR.join(counted.policy for counted in self._counted if counted.limit.is_shown)

    async def __call__(self, request: ClientRequest) -> None:
        slot = self._cost_slot
        cost = self._cost if slot is None else cost_of(request.frame[slot])
        if cost > self._most:
            self._reject_for_good(request, cost)
        buckets = [Bucket(counted.key + key_of(request), counted.rate) for counted, key_of in zip(self._counted, self._key_of, strict=True)]
        try:
            verdicts = await self._store.take(buckets, cost)
        except StoreAway:
            self._without_store()
            return
        if not all_allowed(verdicts):
            verdicts = [
                given_back(verdict, counted.rate, cost) if verdict.is_allowed else verdict
                for counted, verdict in zip(self._counted, verdicts, strict=True)
            ]
            if self._policy:
                self._tell(request, verdicts)
            wait_s = max(verdict.retry_after_s for verdict in verdicts)
            for name in dict.fromkeys(
                counted.limit.name for counted, verdict in zip(self._counted, verdicts, strict=True) if not verdict.is_allowed
            ):
                self._tally.reject(name)
            raise RateLimited("the limit of requests is reached", headers={"retry-after": str(whole_seconds(wait_s))})
        if self._policy:
            self._tell(request, verdicts)
        for name in self._names:
            self._tally.admit(name)

    def _reject_for_good(self, request: ClientRequest, cost: float) -> None:
        if self._policy:
            request.tell(b"ratelimit-policy", self._policy)
        for name in dict.fromkeys(counted.limit.name for counted in self._counted if cost > counted.rate.capacity):
            self._tally.reject(name)
        raise RateLimited("the request costs more than its limit can ever admit")

    def _without_store(self) -> None:
        """Raises Unavailable when one of the limits wants it so."""
        for name in self._names:
            self._tally.skip(name)
        if not all(counted.limit.admits_when_away for counted in self._counted):
            raise Unavailable("the limits of requests cannot be checked at the moment", headers={"retry-after": "1"})

    def _tell(self, request: ClientRequest, verdicts: Sequence[Verdict]) -> None:
        """Tell the client what is left, whatever it is answered. Of a rejected request `t` is when it can come again, as `Retry-After` is (section 5 of the draft)."""
        left = _SEPARATOR.join(
            b"%b;r=%d;t=%d"
            % (counted.shown, verdict.remaining, whole_seconds(verdict.reset_s if verdict.is_allowed else verdict.retry_after_s, least=0))
            for counted, verdict, is_shown in zip(self._counted, verdicts, self._shown, strict=True)
            if is_shown
        )
        request.tell(b"ratelimit-policy", self._policy)
        request.tell(b"ratelimit", left)


def cost_of(value: Any) -> float:
    """The cost of a request from the value in its frame; at least 1, whatever a client sends. Infinite for a number beyond all bounds."""
    if type(value) is bytes:
        try:
            value = msgspec.json.decode(value)
        except msgspec.DecodeError:
            return 1.0
    if type(value) is str:
        try:
            value = float(value)
        except ValueError:
            return 1.0
    if type(value) is int:
        return float(max(1, min(value, 1 << 53)))
    return max(1.0, value) if type(value) is float and not math.isnan(value) else 1.0


def _key_reader(by: Sequence[KeyPlan]) -> Callable[[ClientRequest], bytes]:
    """What makes the rest of a bucket's key from a request. Bounded, whatever clients send."""
    readers = [_READERS[key.source](key) for key in by]
    if not readers:
        return lambda _request: b""
    if len(readers) == 1:
        read = readers[0]
        return lambda request: _bounded(read(request) or b"")
    # The lengths keep the values apart, whatever they contain.
    return lambda request: _bounded(b"".join([b"%d:%b" % (len(value), value) for read in readers for value in [read(request) or b""]]))


def _bounded(key: bytes) -> bytes:
    return key if len(key) <= _MOST_KEY_BYTES else b"#" + blake2b(key, digest_size=24).digest()


def _of_client(_key: KeyPlan) -> Read:
    def read(request: ClientRequest) -> bytes:
        assert request.arrival is not None
        return request.arrival.sender.network

    return read


def _of_principal(key: KeyPlan) -> Read:
    is_name = key.name == "name"

    def read(request: ClientRequest) -> bytes:
        principal = request.principal
        assert principal is not None
        # A subject is unique only among those of its authentication.
        return f"{len(principal.via)}:{principal.via}{principal.name}".encode() if is_name else principal.identity

    return read


def _of_header(key: KeyPlan) -> Read:
    name = key.name.encode()
    return lambda request: request.headers.get(name)


def _of_path(key: KeyPlan) -> Read:
    index = key.index
    return lambda request: (request.path_values[index] or "").encode()


def _of_query(key: KeyPlan) -> Read:
    return lambda request: _first(parse_query(request.query), key.name)


def _of_cookie(key: KeyPlan) -> Read:
    return lambda request: _first(parse_cookies(request.headers.get(b"cookie", b"")), key.name)


def _first(values: Mapping[str, list[str | None]], name: str) -> bytes | None:
    found = values.get(name)
    return None if found is None or found[0] is None else found[0].encode()


_READERS: Final[dict[str, Callable[[KeyPlan], Read]]] = {
    "client": _of_client, "auth": _of_principal, "header": _of_header, "path": _of_path, "query": _of_query, "cookie": _of_cookie,
}  # fmt: skip


def _build(guarding: Guarding, limits: Iterable[LimitPlan]) -> list[LimitGuard]:
    tools = guarding.tools
    groups: dict[object, list[LimitPlan]] = {}
    for limit in limits:
        groups.setdefault((limit.stage == "body", limit.is_shared, limit.cost, limit.cost_slot), []).append(limit)
    guards = []
    for group in groups.values():
        # Without a shared store only tests of single parts and replays run: the store of the process stands in for it.
        store: Store = tools.shared if group[0].is_shared and tools.shared is not None else tools.memory
        guards.append(LimitGuard(group, store, tally=guarding.tally, workers=tools.workers))
    return guards


def build_early(plan: EndpointPlan, guarding: Guarding) -> list[LimitGuard]:
    """The limits that need no principal: they are decided before a credential is looked at."""
    return _build(guarding, (limit for limit in plan.limits if limit.stage == "head" and not limit.needs_principal))


def build_by_principal(plan: EndpointPlan, guarding: Guarding) -> list[LimitGuard]:
    """The limits of each principal."""
    return _build(guarding, (limit for limit in plan.limits if limit.stage == "head" and limit.needs_principal))


def build_weighted(plan: EndpointPlan, guarding: Guarding) -> list[LimitGuard]:
    """The limits whose costs are in the parameters or the body."""
    return _build(guarding, (limit for limit in plan.limits if limit.stage != "head"))
