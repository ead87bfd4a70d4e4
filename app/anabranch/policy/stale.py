"""Answers from the last good exchange when a call fails: stale-if-error, as far as the document allows its age.

What is remembered belongs to a request as it was sent: method, target, body, and every header field, whether fixed by the document, forwarded
or computed; only the fields that name the request are left out, as for coalesced calls. So nobody is ever answered with what another
principal was told.

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


class Remembered(msgspec.Struct, frozen=True):
    """`since_s`: when it was fresh, on the store's clock; an age that the service itself gave it is taken off. `size_bytes`: about."""

    answer: Answer
    since_s: float
    size_bytes: int


class StaleStore:
    """Good answers by what was asked, bounded in number and bytes. Belongs to a process, not to a document: it outlives reloads.

    `size_bytes`: about what it takes.
    """

    def __init__(self, *, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._kept: OrderedDict[Key, Remembered] = OrderedDict()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def bound(self, *, max_entries: int, max_bytes: int) -> None:
        """Other bounds, from now on."""
        self._max_entries, self._max_bytes = max_entries, max_bytes
        self._shrink()

    def put(self, key: Key, answer: Answer, since_s: float) -> None:
        """Remember an answer; a single one that is larger than everything allowed is not."""
        self.forget(key)
        size_bytes = _OVERHEAD_BYTES + len(answer.body) + sum(len(name) + len(value) for name, value in answer.headers)
        if size_bytes > self._max_bytes:
            return
        self._kept[key] = Remembered(answer, since_s, size_bytes)
        self.size_bytes += size_bytes
        self._shrink()

    def get(self, key: Key) -> Remembered | None:
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def add_missing(self, other: "StaleStore") -> None:
        """Take over what is not here: what is here is newer."""
        for key, remembered in other._kept.items():  # noqa: SLF001 - it is one of us
            if key not in self._kept:
                self.put(key, remembered.answer, remembered.since_s)

    def forget(self, key: Key) -> None:
        found = self._kept.pop(key, None)
        if found is not None:
            self.size_bytes -= found.size_bytes

    def _shrink(self) -> None:
        while self._kept and (len(self._kept) > self._max_entries or self.size_bytes > self._max_bytes):
            _, oldest = self._kept.popitem(last=False)
            self.size_bytes -= oldest.size_bytes


class StaleLayer:
    """Remembers the 2xx answers of calls that have a stale rule, and gives them again when such a call fails: with an error of ours, a
    status of 500 and more, or a body that is not JSON. The age is written to `call.stale_age_s`. Other calls pass through.

    A 4xx is an answer, and no failure. Cancellation passes through; nothing is remembered of it.
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
            remembered = self._remembered(call, key, error.code)
            if remembered is None:
                raise
            return remembered
        is_good = 200 <= answer.status < 300
        if answer.status >= 500 or (is_good and not is_json(answer.body)):
            remembered = self._remembered(call, key, InvalidJSON.code if is_good else str(answer.status))
            return answer if remembered is None else remembered
        if is_good:
            if may_be_stored(answer):
                self._store.put(key, answer, self._clock() - age_of(answer))
            else:
                self._store.forget(key)
        return answer

    def _remembered(self, call: Call, key: Key, reason: str) -> Answer | None:
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
            call.notes.append(f"stale answer of {age_s:.1f} s ago instead of {reason}")
        if self._observer is not None:
            self._observer(PolicyEvent(upstream=self._upstream, kind="stale", reason=reason))
        return found.answer


def stale_key(upstream: str, call: Call) -> Key:
    """What calls must have in common to be answered with the same. Whether they are required makes no difference to the answer."""
    return (upstream, *coalescing_key(call)[:-1])


def recorded_key(origin: str, method: str, target: str) -> Key:
    """The same for an answer from the journal, where header fields are not kept: only for calls whose fields are all fixed by the document,
    and `origin` is a digest of these."""
    return ("recorded", origin, method, target)


def may_be_stored(answer: Answer) -> bool:
    """Whether the service allows it."""
    return not any(name == b"cache-control" and b"no-store" in value.lower() for name, value in answer.headers)


def is_json(body: bytes) -> bool:
    """Whether a body can be read; an empty one is null, and a byte order mark is forgiven. 0.8 ms for each MB."""
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
    """Seconds that an answer was under way or in caches before it came to us, as it says itself."""
    value = answer.header(b"age")
    return float(min(int(value), _MAX_AGE_HEADER_S)) if value is not None and value.isdigit() and len(value) < 20 else 0.0
