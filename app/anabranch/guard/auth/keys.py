"""The keys of an authority: given once, or fetched and kept fresh."""

import asyncio
import logging
import math
import random
import re
import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, Protocol, Self
from urllib.parse import urlsplit

import msgspec

from anabranch.core.exchange import Address, Answer
from anabranch.core.metric import Sample, metric
from anabranch.core.tasks import cancel_and_wait
from anabranch.guard.auth.authority import Authority, NoAnswer
from anabranch.guard.auth.seam import CannotAuthenticate
from anabranch.store.memory import MemoryStore

if TYPE_CHECKING:
    from anabranch.core.jose import KeySet

logger = logging.getLogger("anabranch.guard")

UNKNOWN_PAUSE_S: Final = 5.0
"""Between two fetches for keys that the authority does not have."""
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0
SHORTEST_REFRESH_S: Final = 30.0
_DISCOVERY: Final = "/.well-known/openid-configuration"
_MAX_AGE: Final = re.compile(rb'(?:^|[,\s])max-age="?([0-9]{1,9})"?(?:$|[,\s])', re.IGNORECASE)
_AT: Final = struct.Struct("!d")

FETCHES: Final = metric("counter", "key_fetches", "auth result", "Fetches of the keys that verify tokens: `fetched` or `failed`.")
KEYS: Final = metric("gauge", "keys", "auth", "Keys that verify tokens. 0: none, and every request that needs one is answered with 503.")
KEYS_AGE: Final = metric("gauge", "keys_age_seconds", "auth", "Time since the keys that verify tokens were fetched.")


class Keys(Protocol):
    """Where an authenticator has its keys from."""

    async def current(self) -> "KeySet":
        """The keys. Raises CannotAuthenticate when there are none at the moment."""
        ...

    async def newer(self, than: "KeySet") -> "KeySet | None":
        """Others than these, which verify no token that has come; None when the authority has no others. Raises CannotAuthenticate when it cannot be asked."""
        ...


class FixedKeys:
    """Keys that do not change as long as the document is in force."""

    def __init__(self, keys: "KeySet") -> None:
        self._keys = keys

    async def current(self) -> "KeySet":
        return self._keys

    async def newer(self, than: "KeySet") -> "KeySet | None":
        return None


class _Metadata(msgspec.Struct):
    """OpenID Connect Discovery 1.0 section 3; RFC 8414 section 2."""

    issuer: str
    jwks_uri: str


class FetchedKeys:
    """Keys at the URL of an authority. An async context manager: while it is open, it fetches them in the background, before somebody needs them.

    `url`: of the JWK Set; None: the metadata of `issuer` name it. All callers share one fetch, which this object owns. Known keys are used while it runs, and while the authority
    is away: for `keep_s` seconds, also over reloads, since `memory` has them too. A token whose key is not known makes a fetch, at most one in UNKNOWN_PAUSE_S: tokens that
    anybody can invent must not make the gateway flood the authority. After a failed fetch, there is a pause before the next, which doubles from FIRST_PAUSE_S to
    LONGEST_PAUSE_S. `refresh_s`: see `JWT.refresh_s`. `parse`: raises ValueError with a sentence. `clock`: seconds since the epoch. `on_change`: called when keys were replaced or given up.
    """

    def __init__(
        self,
        name: str,
        authority: Authority,
        *,
        url: str | None,
        issuer: str | None,
        refresh_s: float,
        keep_s: float,
        parse: "Callable[[bytes], KeySet]",
        memory: MemoryStore,
        clock: Callable[[], float],
        on_change: Callable[[], None],
    ) -> None:
        self.name = name
        self._authority = authority
        self._url = url
        self._issuer = issuer
        self._refresh_s = refresh_s
        self._keep_s = keep_s
        self._memory = memory
        self._memory_key = f"keys:{url}:{issuer}".encode()
        self._clock = clock
        self._on_change = on_change
        self._parse = parse
        self._keys: KeySet | None = None
        self._fetched_at = -math.inf
        self._due_at = -math.inf
        self._unknown_at = -math.inf
        self._pause_s = FIRST_PAUSE_S
        self._failure = ""
        self._fetching: asyncio.Task[None] | None = None
        self._keeping_fresh: asyncio.Task[None] | None = None
        self._counts = {"fetched": 0, "failed": 0}

    async def __aenter__(self) -> Self:
        self._keeping_fresh = asyncio.create_task(self._keep_fresh(), name="keys")
        return self

    async def __aexit__(self, *_: object) -> None:
        await cancel_and_wait([task for task in (self._keeping_fresh, self._fetching) if task is not None])
        await self._authority.aclose()

    async def current(self) -> "KeySet":
        if self._keys is None:
            await self._recall()
        if self._keys is None:
            if self._failure and self._clock() < self._due_at:
                raise CannotAuthenticate("no_keys")
            await self._fetched()
        if self._keys is None:
            raise CannotAuthenticate("no_keys")
        return self._keys

    async def newer(self, than: "KeySet") -> "KeySet | None":
        if self._keys is None:
            raise CannotAuthenticate("no_keys")
        if self._fetching is None and self._keys == than:
            now = self._clock()
            if now < (self._due_at if self._failure else self._unknown_at + UNKNOWN_PAUSE_S):
                if self._failure:
                    raise CannotAuthenticate("no_keys")
                return None
            self._unknown_at = now
        if self._keys == than:
            await self._fetched()
            if self._keys is None or self._failure:
                raise CannotAuthenticate("no_keys")
        return None if self._keys == than else self._keys

    def samples(self) -> Iterator[Sample]:
        """See `core.metric.Sampled`."""
        for result, count in self._counts.items():
            yield Sample(FETCHES, (self.name, result), count)
        yield Sample(KEYS, (self.name,), 0 if self._keys is None else len(self._keys.keys))
        if self._keys is not None:
            yield Sample(KEYS_AGE, (self.name,), max(0.0, self._clock() - self._fetched_at))

    def notes(self) -> Iterator[str]:
        """See `document.part.Noted`."""
        if self._failure:
            kept = "there are none" if self._keys is None else f"those of {max(0.0, self._clock() - self._fetched_at):.0f} s ago are used"
            yield f"the keys of authentication {self.name} cannot be fetched ({self._failure}); {kept}"

    async def _fetched(self) -> None:
        """Wait for a fetch: the one that runs, or a new one."""
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._fetch(), name="keys")
        # Awaiting the task directly would cancel it with the caller.
        await asyncio.wait([self._fetching])

    async def _keep_fresh(self) -> None:
        await self._recall()
        while True:
            await self._fetched()
            due_at = -math.inf
            while due_at != self._due_at:  # another fetch may have ended meanwhile
                due_at = self._due_at
                await asyncio.sleep(max(due_at - self._clock(), FIRST_PAUSE_S / 2))

    async def _recall(self) -> None:
        """Take the keys that an earlier document has fetched from the same place."""
        kept = await self._memory.get(self._memory_key)
        if kept is not None and self._keys is None:
            self._keys = self._parse(kept[_AT.size :])
            self._fetched_at = _AT.unpack_from(kept)[0]

    async def _fetch(self) -> None:
        try:
            url = self._url or await self._discovered()
            answer = await self._authority.get(url)
            keys = self._parsed(answer.body)
        except NoAnswer as error:
            self._fail(str(error))
        else:
            await self._accept(keys, answer)
        finally:
            self._fetching = None

    async def _discovered(self) -> str:
        """The URL of the keys, by the metadata of the issuer. Raises NoAnswer."""
        issuer = self._issuer
        assert issuer is not None
        answer = await self._authority.get(issuer.removesuffix("/") + _DISCOVERY)
        try:
            metadata = msgspec.json.decode(answer.body, type=_Metadata)
            Address.parse_target(metadata.jwks_uri)
        except (ValueError, RecursionError):
            raise NoAnswer("the metadata of the issuer are not usable") from None
        # OpenID Connect Discovery 1.0 section 4.3: exactly the same.
        if metadata.issuer != issuer:
            raise NoAnswer("the metadata are those of another issuer")
        if urlsplit(metadata.jwks_uri).scheme != urlsplit(issuer).scheme:
            raise NoAnswer("the keys of the issuer are at a URL with another scheme than its own")
        return metadata.jwks_uri

    async def _accept(self, keys: "KeySet", answer: Answer) -> None:
        now = self._clock()
        is_other = self._keys is not None and keys != self._keys
        self._keys = keys
        self._fetched_at = now
        # Spread, so that many gateways do not ask at once.
        self._due_at = now + _fresh_s(answer, self._refresh_s) * (0.9 + 0.1 * random.random())  # noqa: S311
        self._pause_s = FIRST_PAUSE_S
        self._failure = ""
        self._counts["fetched"] += 1
        for index, reason in keys.unusable.items():
            logger.debug("key %d of authentication %s is not used: %s", index, self.name, reason)
        if is_other:
            logger.info("the keys of authentication %s have changed", self.name)
            self._on_change()
        await self._memory.put(self._memory_key, _AT.pack(now) + answer.body, self._keep_s)

    def _parsed(self, body: bytes) -> "KeySet":
        try:
            return self._parse(body)
        except ValueError as error:
            raise NoAnswer(f"what the authority answered is no set of keys: {error}") from None

    def _fail(self, reason: str) -> None:
        now = self._clock()
        if not self._failure:
            logger.warning("the keys of authentication %s cannot be fetched: %s", self.name, reason)
        self._failure = reason
        self._due_at = now + self._pause_s * (0.5 + random.random())  # noqa: S311
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._counts["failed"] += 1
        if self._keys is not None and now >= self._fetched_at + self._keep_s:
            logger.error("the keys of authentication %s are too old to be used", self.name)
            self._keys = None
            self._on_change()


def _fresh_s(answer: Answer, most_s: float) -> float:
    """How long the answer may be used. **Source:** RFC 9111 section 5.2.2.1, within bounds of ours."""
    found = _MAX_AGE.search(answer.header(b"cache-control") or b"")
    age_s = most_s if found is None else float(found[1])
    return min(max(age_s, SHORTEST_REFRESH_S), most_s)
