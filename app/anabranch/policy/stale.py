"""Answers a failed call with the last good response (stale-if-error), up to the age that the document allows.

A stored response belongs to a request as it was sent: method, target, body and header fields, whether fixed by the document, forwarded
or computed. Only the fields that identify the request itself are ignored, as for coalesced calls. So a principal never gets a response
that belongs to another one.

**Source:** RFC 5861 section 4; RFC 9111 sections 4.2.3 (age) and 5.2.2.5 (no-store).
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from anabranch.core.exchange import Answer
from anabranch.errors import InvalidJSON, StepError
from anabranch.policy.call import Call, Policy
from anabranch.policy.coalesce import Key, coalescing_key
from anabranch.policy.event import Observer, PolicyEvent

_decode_raw: Final = msgspec.json.Decoder(msgspec.Raw).decode
_OVERHEAD_BYTES: Final = 512
_MAX_AGE_HEADER_S: Final = 2**31


class StoredAnswer(msgspec.Struct, frozen=True):
    """`since_s`: when the response was fresh, in time of the layer's clock: its arrival minus its `Age`. `size_bytes`: approximate."""

    answer: Answer
    since_s: float
    size_bytes: int


class StaleStore:
    """Good responses by request, bounded in number and bytes; evicts the least recently used. Owned by the process, so it outlives reloads.

    `size_bytes`: approximate memory in use.
    """

    def __init__(self, *, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._stored: OrderedDict[Key, StoredAnswer] = OrderedDict()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._stored)

    def bound(self, *, max_entries: int, max_bytes: int) -> None:
        """Change the bounds. Evicts entries that exceed them."""
        self._max_entries, self._max_bytes = max_entries, max_bytes
        self._evict()

    def put(self, key: Key, answer: Answer, since_s: float) -> None:
        """Store a response, replacing the one at `key`. Does not store one that is larger than the whole store may be."""
        self.discard(key)
        size_bytes = _OVERHEAD_BYTES + len(answer.body) + sum(len(name) + len(value) for name, value in answer.headers)
        if size_bytes > self._max_bytes:
            return
        self._stored[key] = StoredAnswer(answer, since_s, size_bytes)
        self.size_bytes += size_bytes
        self._evict()

    def get(self, key: Key) -> StoredAnswer | None:
        found = self._stored.get(key)
        if found is not None:
            self._stored.move_to_end(key)
        return found

    def add_missing(self, other: "StaleStore") -> None:
        """Add the entries of `other` whose keys are not stored here. Keeps existing entries, which are newer."""
        for key, stored in other._stored.items():  # noqa: SLF001 - same class
            if key not in self._stored:
                self.put(key, stored.answer, stored.since_s)

    def discard(self, key: Key) -> None:
        found = self._stored.pop(key, None)
        if found is not None:
            self.size_bytes -= found.size_bytes

    def _evict(self) -> None:
        while self._stored and (len(self._stored) > self._max_entries or self.size_bytes > self._max_bytes):
            _, oldest = self._stored.popitem(last=False)
            self.size_bytes -= oldest.size_bytes


class StaleLayer:
    """Stores the 2xx responses of calls that have a stale rule, and returns the stored one when such a call fails.

    A call fails by a StepError, a status of 500 or more, or a 2xx body that is not JSON; a 4xx is not a failure. The age of the response is
    written to `call.stale_age_s`. Other calls pass through. Cancellation passes through; nothing is stored.
    """

    __slots__ = ("_clock", "_next", "_observer", "_store", "_upstream")

    def __init__(
        self, next_: Policy, *, store: StaleStore, clock: Callable[[], float], upstream: str, observer: Observer | None = None
    ) -> None:
        self._next = next_
        self._store = store
        self._clock = clock
        self._upstream = upstream
        self._observer = observer

    def __call__(self, call: Call) -> Awaitable[Answer]:
        return self._next(call) if call.stale is None else self._guarded(call)

    async def _guarded(self, call: Call) -> Answer:
        key = stale_key(self._upstream, call)
        try:
            answer = await self._next(call)
        except StepError as error:
            stored = self._stored(call, key, error.code)
            if stored is None:
                raise
            return stored
        is_good = 200 <= answer.status < 300
        if answer.status >= 500 or (is_good and not is_json(answer.body)):
            stored = self._stored(call, key, InvalidJSON.code if is_good else str(answer.status))
            return answer if stored is None else stored
        if is_good:
            if may_be_stored(answer):
                self._store.put(key, answer, self._clock() - age_of(answer))
            else:
                self._store.discard(key)
        return answer

    def _stored(self, call: Call, key: Key, reason: str) -> Answer | None:
        """The stored response for a call that failed with `reason`; None if there is none that is fresh enough."""
        rule = call.stale
        assert rule is not None
        now = self._clock()
        found = self._store.get(key)
        if found is None and rule.origin and call.request.body is None:
            found = self._store.get(recorded_key(rule.origin, call.request.method, call.request.target))
        if found is None or (age_s := max(now - found.since_s, 0.0)) > rule.max_age_s:
            return None
        call.stale_age_s = age_s
        if call.notes is not None:
            call.notes.append(f"stale response, {age_s:.1f} s old, instead of {reason}")
        if self._observer is not None:
            self._observer(PolicyEvent(upstream=self._upstream, kind="stale", reason=reason))
        return found.answer


def stale_key(upstream: str, call: Call) -> Key:
    """Calls with the same key have the same stored response. Unlike for coalescing, `is_required` is not part of the key."""
    return (upstream, *coalescing_key(call)[:-1])


def recorded_key(origin: str, method: str, target: str) -> Key:
    """The key of a response read from the journal, which keeps no request header fields. Only for calls whose fields are all fixed by the
    document. `origin`: `StaleRule.origin`."""
    return ("recorded", origin, method, target)


def may_be_stored(answer: Answer) -> bool:
    """Whether the response allows storing it: no `Cache-Control: no-store`."""
    return not any(name == b"cache-control" and b"no-store" in value.lower() for name, value in answer.headers)


def is_json(body: bytes) -> bool:
    """Whether a body is JSON. Accepts an empty body (null) and a byte order mark. 0.8 ms for each MB."""
    if not body:
        return True
    try:
        if not body.isascii():
            body.decode()
        _decode_raw(body[3:] if body.startswith(b"\xef\xbb\xbf") else body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False
    return True


def age_of(answer: Answer) -> float:
    """The response's own age in seconds, from its `Age` field: time in transit and in caches. 0 without a valid field."""
    value = answer.header(b"age")
    return float(min(int(value), _MAX_AGE_HEADER_S)) if value is not None and value.isdigit() and len(value) < 20 else 0.0
