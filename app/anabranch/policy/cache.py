"""Answers calls from stored answers, as a shared HTTP cache does (RFC 9111), and failed calls with the last good one (RFC 5861).

What may be stored and used says `anabranch.cache.judge`. This layer asks it, looks up, forwards, validates, and sees to it that one missing answer is asked for only
once: in this process by sharing one call, in a fleet by a lease of the shared store. Nothing waits for a store that is away.

An answer belongs to a request as `anabranch.cache.keys` says, so a principal never gets one that belongs to another principal.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from functools import partial
from typing import Any, Final

from anabranch.cache.entries import UNCACHEABLE_S, Entries
from anabranch.cache.entry import Entry, Slot, Uncacheable, Variants
from anabranch.cache.fleet import Fleet, Lease
from anabranch.cache.judge import (
    SAFE,
    Storing,
    Use,
    conditional,
    describes,
    freshened,
    invalidated,
    judge,
    path_of,
    unconditional,
    use_of,
)
from anabranch.cache.keys import key_of, recorded_key, recorded_origin, variant_key, varying
from anabranch.cache.rule import Caching
from anabranch.core.cached import CacheUse
from anabranch.core.exchange import Answer, Request
from anabranch.core.metric import Sample, metric
from anabranch.core.tasks import cancel_and_wait
from anabranch.errors import NotCached, StepError
from anabranch.plan.upstream import UpstreamPlan
from anabranch.policy.call import Call, Policy
from anabranch.policy.event import Observer, PolicyEvent
from anabranch.policy.flights import Flights
from anabranch.policy.tools import Tools

ANSWERS: Final = metric(
    "counter",
    "cache_answers",
    "upstream result",
    "Answers to calls with a cache. `result`: `hit`, `stale` (used while it is validated), `error` (used because the call failed), `validated` (a 304), `miss`, "
    "`joined` (another call's answer), or `bypass` (of a client that wants no stored answer).",
)
STORED: Final = metric("counter", "cache_stored", "upstream", "Answers that were stored.")
REVALIDATIONS: Final = metric(
    "counter",
    "cache_revalidations",
    "upstream result",
    "Stale answers that were asked for anew in the background. `result`: `ok` or `failed`.",
)

_MOST_BACKGROUND: Final = 64
"""Validations in the background at a time. A stale answer beyond them is served, and validated at its next use."""
_BACKGROUND_S: Final = 30.0
_DRAIN_S: Final = 2.0
_GIVE_BACK_S: Final = 0.2
_MOST_VARIED: Final = 16
_VARIANTS_S: Final = 86400.0
_RANGES: Final = frozenset({b"range", b"if-range"})


class CacheLayer:
    """Calls without `caching` pass through; those that change something make the entries of what they change out of date.

    `clock`: of deadlines. Cancelling a caller cancels what is asked for it alone; a validation in the background goes on. `aclose` lets those that run end, for 2 s at
    most.
    """

    __slots__ = ("_clock", "_counts", "_entries", "_fleet", "_flights", "_next", "_observer", "_revalidating", "_tasks", "_upstream")

    def __init__(
        self, next_: Policy, *, entries: Entries, clock: Callable[[], float], upstream: str, observer: Observer | None = None
    ) -> None:
        self._next = next_
        self._entries = entries
        self._clock = clock
        self._upstream = upstream
        self._observer = observer
        self._flights = Flights(clock)
        self._fleet = Fleet(entries, upstream, clock)
        self._tasks: set[asyncio.Task[None]] = set()
        self._revalidating: set[bytes] = set()
        self._counts = dict.fromkeys(("hit", "stale", "error", "validated", "miss", "joined", "bypass", "stored", "ok", "failed"), 0)

    def __call__(self, call: Call) -> Awaitable[Answer]:
        caching = call.caching
        if caching is not None:
            return self._fallback(call, caching) if caching.rule.is_fallback else self._cached(call, caching)
        return self._next(call) if call.request.method in SAFE else self._changing(call)

    def samples(self) -> Iterator[Sample]:
        """See `core.metric.Sampled`."""
        counts = self._counts
        for result in ("hit", "stale", "error", "validated", "miss", "joined", "bypass"):
            yield Sample(ANSWERS, (self._upstream, result), counts[result])
        yield Sample(STORED, (self._upstream,), counts["stored"])
        for result in ("ok", "failed"):
            yield Sample(REVALIDATIONS, (self._upstream, result), counts[result])

    async def aclose(self) -> None:
        """Let what runs in the background end, and cancel what takes too long."""
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=_DRAIN_S)
        await self._flights.aclose()
        if self._tasks:
            # Leases of what was just cancelled are given back, so that no other gateway waits for it.
            await asyncio.wait(tuple(self._tasks), timeout=_GIVE_BACK_S)
        await cancel_and_wait(tuple(self._tasks))

    # ------------------------------------------------------------------------------------------------- from stored answers

    async def _cached(self, call: Call, caching: Caching) -> Answer:
        key = key_of(call.request, caching, call.principal)
        if caching.is_judged:
            call.refuse = partial(self._refuse, key, call.request)
        slot = self._entries.memory.get(key)
        if slot.__class__ is Variants:
            slot = self._entries.memory.get(variant_key(slot, call.request))
        if slot.__class__ is Entry and caching.wanted is None:
            now = self._entries.clock()
            if now < slot.fresh_until_s:
                return self._hit(call, slot, now)
        return await self._lookup(call, caching, key)

    def _hit(self, call: Call, entry: Entry, now: float, *, detail: str = "", result: str = "hit") -> Answer:
        """Answer with a stored answer."""
        self._counts[result] += 1
        fresh_s = entry.fresh_until_s - now
        call.is_stored = True
        call.cache_use = CacheUse(f"hit;ttl={int(fresh_s)}{detail}", fresh_s, now - entry.since_s)
        if call.notes is not None:
            call.notes.append(f"cache: hit, {now - entry.since_s:.1f} s old{detail.replace(';detail=', ', ')}")
        answer = entry.answer
        return answer if call.request.method == "GET" else Answer(answer.status, answer.headers, b"")

    async def _lookup(self, call: Call, caching: Caching, key: bytes) -> Answer:
        """Everything but a fresh entry in memory."""
        entries, request, wanted = self._entries, call.request, caching.wanted
        if any(name in _RANGES for name, _ in request.extra):
            return await self._bypass(call, "fwd=bypass;detail=range")
        if wanted is not None and wanted.no_store:
            return await self._bypass(call, "fwd=request;detail=no-store")
        found = await entries.find(key, self._upstream, request)
        entry = found if isinstance(found, Entry) else None
        now = entries.clock()
        if entry is not None:
            use = use_of(entry, wanted, now)
            if use is Use.FRESH:
                return self._hit(call, entry, now)
            if use is Use.STALE:
                self._revalidate(call, caching, key, entry)
                return self._hit(call, entry, now, detail=";detail=stale-while-revalidate", result="stale")
        if wanted is not None and wanted.only_if_cached:
            raise NotCached("the client wants only a stored answer, and there is none that is good enough")
        is_for_one = found.until_s > now if isinstance(found, Uncacheable) else entry is not None and entry.was_stale
        if call.judge is not None or is_for_one:
            # Those who ask for what cannot be stored, or is stale at once, do not wait for each other; and an answer that is judged here may fail for one of them only.
            return await self._or_stale(call, caching, entry, self._forward(call, caching, key, is_alone=True))
        return await self._or_stale(call, caching, entry, self._shared_flight(call, caching, key, entry))

    async def _shared_flight(self, call: Call, caching: Caching, key: bytes, known: Entry | None) -> Answer:
        """Ask for the answer, once for all calls that want it now. `known`: the stored one, which does not serve the call."""
        request = call.request

        async def run(first: Call) -> Answer:
            return await self._forward(first, caching, key, known=known)

        answer, is_joined = await self._flights.share(
            (self._entries.own_key(key, request), request.method, call.is_required, call.success), call, run, _note_join
        )
        if not is_joined or answer.status >= 500:
            return answer
        found = self._entries.peek(key, request)
        now = self._entries.clock()
        if isinstance(found, Entry) and (caching.wanted is None or not caching.wanted.no_cache) and now < found.fresh_until_s:
            answer = self._hit(call, found, now, result="joined")
            assert call.cache_use is not None
            call.cache_use = _used("fwd=uri-miss;collapsed", found.fresh_until_s - now, age_s=now - found.since_s)
            return answer
        # What came is not for this call: it must not be reused, or it differs by header fields.
        return await self._forward(call, caching, key, is_alone=True)

    async def _or_stale(self, call: Call, caching: Caching, entry: Entry | None, asking: Coroutine[Any, Any, Answer]) -> Answer:
        """The answer of the service, or the stored one where that has failed and may be replaced (RFC 5861 section 4)."""
        try:
            answer = await asking
        except StepError as error:
            stale = self._after_failure(call, entry, error.code)
            if stale is None:
                raise
            return stale
        if call.is_stored:
            return answer
        fault = caching.fault_of(answer) if answer.status in call.success else str(answer.status) if answer.status >= 500 else ""
        if fault and (stale := self._after_failure(call, entry, fault)) is not None:
            return stale
        return answer

    def _after_failure(self, call: Call, entry: Entry | None, reason: str) -> Answer | None:
        now = self._entries.clock()
        if entry is None or now >= entry.error_until_s:
            return None
        self._counts["error"] += 1
        call.stale_age_s = max(now - entry.since_s, 0.0)
        call.is_stored = True
        ttl = f";ttl={int(entry.fresh_until_s - now)}" if entry.has_freshness else ""
        call.cache_use = CacheUse(f"hit{ttl};detail=stale-if-error", min(entry.fresh_until_s - now, 0.0), call.stale_age_s)
        if call.notes is not None:
            call.notes.append(f"stale response, {call.stale_age_s:.1f} s old, instead of {reason}")
        if self._observer is not None:
            self._observer(PolicyEvent(upstream=self._upstream, kind="stale", reason=reason))
        answer = entry.answer
        return answer if call.request.method == "GET" else Answer(answer.status, answer.headers, b"")

    # ------------------------------------------------------------------------------------------------- asking the service

    async def _bypass(self, call: Call, status: str) -> Answer:
        self._counts["bypass"] += 1
        answer = await self._next(call)
        call.cache_use = CacheUse(status, 0.0, is_no_store=True)
        return answer

    async def _forward(self, call: Call, caching: Caching, key: bytes, *, known: Entry | None = None, is_alone: bool = False) -> Answer:
        """Ask the service, with the validators of a stored answer, and store what comes. `known`: see `Fleet.lead`. `is_alone`: no other gateway's answer is waited for."""
        lease: Lease | None = None
        if self._entries.shared is not None and not is_alone and call.request.method == "GET":
            found, lease = await self._fleet.lead(key, call.request, call.deadline, known)
            if found is not None:
                return self._hit(call, found, self._entries.clock(), detail=";detail=fleet", result="joined")
        try:
            return await self._exchange(call, caching, key, lease)
        except BaseException:
            if lease is not None:
                self._start(self._fleet.give_back(lease))
            raise

    async def _exchange(self, call: Call, caching: Caching, key: bytes, lease: Lease | None) -> Answer:
        entries, request = self._entries, call.request
        known = self._entries.peek(key, request)
        entry = known if isinstance(known, Entry) else None
        requested_s = entries.clock()
        is_conditional = entry is not None and entry.has_validator and request.method == "GET"
        call.request = conditional(request, entry) if entry is not None and is_conditional else unconditional(request)
        try:
            answer = await self._next(call)
            is_validated = False
            if answer.status == 304 and entry is not None and is_conditional:
                merged = freshened(entry, answer)
                if merged is None:
                    # It validates an answer that is not stored here: ask for all of it.
                    call.request = unconditional(request)
                    requested_s = entries.clock()
                    answer = await self._next(call)
                else:
                    answer, is_validated = merged, True
                    call.is_stored = True
        finally:
            call.request = request
        received_s = entries.clock()
        storing = judge(request, answer, caching.rule, success=call.success, requested_s=requested_s, received_s=received_s)
        if request.method == "HEAD":
            self._freshen(call, entry, answer, requested_s=requested_s, received_s=received_s, caching=caching)
        why = self._store(call, caching, key, answer, storing, lease)
        self._counts["validated" if is_validated else "miss"] += 1
        reason = "request" if caching.wanted is not None and entry is not None else _reason(known, request)
        status = f"fwd={reason}"
        if is_validated:
            status += ";fwd-status=304"
        status += f";detail={why}" if why else ";stored"
        call.cache_use = _used(
            status,
            storing.fresh_until_s - received_s,
            age_s=max(received_s - storing.since_s, 0.0),
            is_private=storing.is_private,
            is_no_store=storing.is_no_store,
        )
        if call.notes is not None:
            call.notes.append(f"cache: {status.replace(';', ', ').replace('=', ' ')}")
        return answer

    def _store(self, call: Call, caching: Caching, key: bytes, answer: Answer, storing: Storing, lease: Lease | None) -> str:
        """Store an answer, or remember that it could not be. Gives the lease back. Returns why it is not stored, in a word; "" when it is."""
        entries, request = self._entries, call.request
        slots: list[Slot] = []
        is_failure = answer.status >= 500 or (answer.status in call.success and bool(caching.fault_of(answer)))
        entry, why, at = storing.entry, storing.why, entries.memory.get(key)
        if is_failure and (answer.status in call.success or self._may_replace_failure(key, request)):
            entry, why = None, why or "failure"
        if entry is not None:
            known = at.names if isinstance(at, Variants) else ()
            names = tuple(sorted({*known, *varying(storing.varies_by, request, caching)}))
            if len(names) > _MOST_VARIED:
                entry, why = None, "vary"
            elif names:
                variants = Variants(key, names, entries.clock() + _VARIANTS_S)
                if names != known:
                    slots.append(variants)
                slots.append(self._complete(entry, variant_key(variants, request), caching, request, answer))
            else:
                slots.append(self._complete(entry, key, caching, request, answer))
        is_ended = bool(slots) and isinstance(slots[-1], Entry) and entries.memory.is_ended(slots[-1])
        if entry is None or not all(map(entries.memory.put, slots)):
            why = why or ("purged" if is_ended else "too-large")
            slots = []
            if request.method == "GET" and not is_failure and not is_ended:
                slots = [Uncacheable(self._entries.own_key(key, request), entries.clock() + UNCACHEABLE_S)]
                entries.memory.put(slots[0])
        else:
            self._counts["stored"] += 1
        if entries.shared is not None and (slots or lease is not None):
            self._start(self._fleet.share(slots, lease))
        return why

    def _may_replace_failure(self, key: bytes, request: Request) -> bool:
        """Whether there is an older answer that stands in for a failed one: a failure must not take its place, even if the service calls it fresh."""
        found = self._entries.peek(key, request)
        return isinstance(found, Entry) and self._entries.clock() < found.error_until_s

    def _complete(self, entry: Entry, key: bytes, caching: Caching, request: Request, answer: Answer) -> Entry:
        tags = () if caching.tags_of is None else caching.tags_of(answer)
        return Entry(
            key, self._upstream, path_of(request.target), entry.answer, entry.requested_s, entry.since_s, entry.fresh_until_s, entry.revalidate_until_s,
            entry.error_until_s, entry.has_freshness, entry.must_revalidate, entry.etag, entry.last_modified, tags, caching.rule.is_fallback,
            entry.was_stale,
        )  # fmt: skip

    def _freshen(self, call: Call, entry: Entry | None, head: Answer, *, requested_s: float, received_s: float, caching: Caching) -> None:
        """What the answer to a HEAD says of the stored answer to a GET (RFC 9111 section 4.3.5)."""
        if entry is None or head.status != 200:
            return
        merged = freshened(entry, head) if describes(entry, head) else None
        if merged is None:
            self._start(self._entries.discard(entry.key))
            return
        like = Request("GET", call.request.target, call.request.headers, call.request.extra, None, call.request.host)
        storing = judge(like, merged, caching.rule, success=call.success, requested_s=requested_s, received_s=received_s)
        if storing.entry is not None:
            self._entries.memory.put(self._complete(storing.entry, entry.key, caching, call.request, merged))

    def _refuse(self, key: bytes, request: Request) -> None:
        """The document does not want the stored answer to a call: let nobody have it again."""
        at = self._entries.peek(key, request)
        if isinstance(at, Entry):
            self._entries.memory.discard(at.key)
            if self._entries.shared is not None:
                self._start(self._entries.discard(at.key))

    # ------------------------------------------------------------------------------------------------- in the background

    def _revalidate(self, call: Call, caching: Caching, key: bytes, known: Entry) -> None:
        """Validate a stale answer without its caller, unless that is being done."""
        if key in self._revalidating or len(self._revalidating) >= _MOST_BACKGROUND:
            return
        twin = Call(
            call.request,
            deadline=self._clock() + _BACKGROUND_S,
            is_idempotent=True,
            is_required=False,
            success=call.success,
            principal=call.principal,
            caching=caching,
        )
        self._revalidating.add(key)
        self._start(self._validate(twin, caching, key, known))

    async def _validate(self, call: Call, caching: Caching, key: bytes, known: Entry) -> None:
        try:
            answer = await self._shared_flight(call, caching, key, known)
            self._counts["failed" if answer.status >= 500 else "ok"] += 1
        except StepError:
            self._counts["failed"] += 1
        finally:
            self._revalidating.discard(key)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name="cache")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ------------------------------------------------------------------------------------------------- changes

    async def _changing(self, call: Call) -> Answer:
        """A call that may change something (RFC 9111 section 4.4)."""
        answer = await self._next(call)
        targets = invalidated(call.request, answer, call.address)
        if targets:
            await self._entries.changed(self._upstream, [path_of(target) for target in targets])
        return answer

    # ------------------------------------------------------------------------------------------------- only for failures

    async def _fallback(self, call: Call, caching: Caching) -> Answer:
        """A call that is no HTTP cache, and uses its last good answer only when it fails."""
        entries, request = self._entries, call.request
        key = key_of(request, caching, call.principal)
        requested_s = entries.clock()
        try:
            answer = await self._next(call)
        except StepError as error:
            stale = self._after_failure(call, self._kept(request, caching, key), error.code)
            if stale is None:
                raise
            return stale
        is_good = answer.status in call.success
        fault = caching.fault_of(answer) if is_good else str(answer.status) if answer.status >= 500 else ""
        if fault:
            stale = self._after_failure(call, self._kept(request, caching, key), fault)
            return answer if stale is None else stale
        if is_good:
            storing = judge(request, answer, caching.rule, success=call.success, requested_s=requested_s, received_s=entries.clock())
            if storing.entry is None:
                entries.memory.discard(key)
            elif entries.memory.put(self._complete(storing.entry, key, caching, request, answer)):
                self._counts["stored"] += 1
        return answer

    def _kept(self, request: Request, caching: Caching, key: bytes) -> Entry | None:
        found = self._entries.memory.get(key)
        if found is None and caching.origin and request.body is None:
            found = self._entries.memory.get(recorded_key(recorded_origin(caching.origin, request), request.method, request.target))
        if not isinstance(found, Entry):
            return None
        # A restored answer may be kept for another call, which may use older ones.
        return found if self._entries.clock() < found.since_s + (caching.rule.stale_if_error_s or 0.0) else None


def _reason(known: Slot | None, request: Request) -> str:
    """RFC 9211 section 2.2: why the request went to the service."""
    if request.method != "GET":
        return "method"
    return "stale" if isinstance(known, Entry) else "vary-miss" if isinstance(known, Variants) else "uri-miss"


def _used(status: str, fresh_s: float, *, age_s: float = 0.0, is_private: bool = False, is_no_store: bool = False) -> CacheUse:
    ttl = f";ttl={int(fresh_s)}" if fresh_s > 0 and ";detail=" not in status else ""
    return CacheUse(f"{status}{ttl}", fresh_s, age_s, is_private, is_no_store)


def _note_join(call: Call, reason: str) -> None:
    call.note(f"cache: waits for the same call ({reason})")


def build(next_: Policy, upstream: UpstreamPlan, tools: Tools) -> CacheLayer | None:
    """Built where a call of the upstream is cached, or has a stale rule."""
    if tools.entries is None:
        return None
    return CacheLayer(next_, entries=tools.entries, clock=tools.clock, upstream=upstream.name, observer=tools.observer)


def describe(upstream: UpstreamPlan) -> str | None:
    return "cache of calls that enable it" if upstream.has_cached_calls else None
