"""Opaque tokens: the authority that has issued them is asked what they are.

**Source:** RFC 7662.
"""

import asyncio
import logging
import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any, Final, Self
from urllib.parse import quote_plus, urlencode

from anabranch.config.auth.introspection import Introspection
from anabranch.core.metric import Sample, metric
from anabranch.core.principal import Principal
from anabranch.core.tasks import cancel_and_wait
from anabranch.guard.auth.authority import Authority, NoAnswer
from anabranch.guard.auth.bearer import CHALLENGE, finder
from anabranch.guard.auth.remembered import REMEMBERED, Remembered
from anabranch.guard.auth.seam import CannotAuthenticate, InvalidCredential, Presented
from anabranch.guard.auth.token import MOST_BYTES, check_audience, check_dates, name_of, object_of, refused, subject_of
from anabranch.guard.tools import Tools

logger = logging.getLogger("anabranch.guard")

MOST_AT_ONCE: Final = 100
"""Tokens that the authority is asked about at the same time."""
INACTIVE_S: Final = 5.0
LEEWAY_S: Final = 30.0
"""Between the clocks of authority and gateway. Some authorities call tokens active that have expired."""
MOST_INACTIVE: Final = 10_000
# RFC 6750 section 2.1.
_TOKEN: Final = re.compile(rb"[A-Za-z0-9._~+/-]+=*")

ASKED: Final = metric(
    "counter", "introspections", "auth result", "Tokens that an authority was asked about: `active`, `inactive`, or `failed`."
)

Verdict = Principal | InvalidCredential | CannotAuthenticate
"""What came of asking about a token."""


class IntrospectionAuthenticator:
    """Asks the authority about each token once in `cache_s` seconds, and once for all who send it meanwhile. Tokens are remembered by their digests only.

    `audiences`: of which a token must have one; empty: any. `clock`: seconds since the epoch.
    """

    challenge = CHALLENGE

    def __init__(
        self, name: str, source: Introspection, *, authority: Authority, audiences: frozenset[str], clock: Callable[[], float]
    ) -> None:
        self._name = name
        self._source = source
        self._authority = authority
        self._headers, self._form = _credentials(source)
        self._audiences = audiences
        self._find = finder(source.place)
        self._clock = clock
        self._remembered = Remembered(clock)
        self._inactive: dict[bytes, tuple[str, float]] = {}
        self._asking: dict[bytes, asyncio.Task[Verdict]] = {}
        self._counts = {"active": 0, "inactive": 0, "failed": 0}
        self._failure = ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await cancel_and_wait(list(self._asking.values()))
        await self._authority.aclose()

    def recall(self, presented: Presented) -> Principal | None:
        token = self._find(presented.headers)
        return None if token is None else self._remembered.get(sha256(token).digest())

    def is_presented(self, presented: Presented) -> bool:
        return self._find(presented.headers) is not None

    async def authenticate(self, presented: Presented) -> Principal | None:
        token = self._find(presented.headers)
        if token is None:
            return None
        if len(token) > MOST_BYTES:
            raise refused("too_large")
        if _TOKEN.fullmatch(token) is None:
            raise refused("malformed")
        digest = sha256(token).digest()
        reason, until = self._inactive.get(digest, ("", 0.0))
        if self._clock() < until:
            raise refused(reason)
        asking = self._asking.get(digest)
        if asking is None:
            if len(self._asking) >= MOST_AT_ONCE:
                raise CannotAuthenticate("busy")
            asking = self._asking[digest] = asyncio.create_task(self._ask(token, digest), name="introspection")
        # Awaiting the task directly would cancel it with the caller.
        await asyncio.wait([asking])
        verdict = CannotAuthenticate("closed") if asking.cancelled() else asking.result()
        # Each client gets an exception of its own: a raised one grows a traceback.
        match verdict:
            case InvalidCredential():
                raise refused(verdict.reason)
            case CannotAuthenticate():
                raise CannotAuthenticate(verdict.reason)
        return verdict

    def samples(self) -> Iterator[Sample]:
        """See `core.metric.Sampled`."""
        yield Sample(REMEMBERED, (self._name,), len(self._remembered))
        for result, count in self._counts.items():
            yield Sample(ASKED, (self._name, result), count)

    def notes(self) -> Iterator[str]:
        """See `document.part.Noted`."""
        if self._failure:
            yield f"the authority of authentication {self._name} does not answer ({self._failure})"

    async def _ask(self, token: bytes, digest: bytes) -> Verdict:
        try:
            text = await self._answer(token)
            said = object_of(text)
        except NoAnswer as error:
            return self._failed(str(error))
        except (ValueError, RecursionError):
            return self._failed("its answer is not a JSON object")
        else:
            return self._judged(token, digest, text, said)
        finally:
            del self._asking[digest]

    async def _answer(self, token: bytes) -> bytes:
        form = urlencode([("token", token), ("token_type_hint", "access_token"), *self._form])
        return (await self._authority.post(self._source.url, self._headers, form.encode())).body

    def _judged(self, token: bytes, digest: bytes, text: bytes, said: dict[str, Any]) -> Verdict:
        if not isinstance(said.get("active"), bool):
            return self._failed("its answer has no `active`")
        self._failure = ""
        now, cache_s = self._clock(), self._source.cache_s
        try:
            if not said["active"]:
                raise refused("inactive")
            expires_at = check_dates(said, now, LEEWAY_S)
            check_audience(said, self._audiences)
            subject = subject_of(said, self._source.subject)
        except InvalidCredential as error:
            self._counts["inactive"] += 1
            while len(self._inactive) >= MOST_INACTIVE:
                del self._inactive[next(iter(self._inactive))]
            self._inactive[digest] = (error.reason, now + min(cache_s, INACTIVE_S))
            return error
        self._counts["active"] += 1
        principal = Principal(subject, name_of(said, subject), self._name, text, token, expires_at)
        if cache_s:
            self._remembered.put(digest, principal, min(expires_at, now + cache_s))
        return principal

    def _failed(self, reason: str) -> CannotAuthenticate:
        if not self._failure:
            logger.warning("the authority of authentication %s does not answer: %s", self._name, reason)
        self._failure = reason
        self._counts["failed"] += 1
        return CannotAuthenticate("no_answer")


def _credentials(source: Introspection) -> tuple[list[tuple[bytes, bytes]], list[tuple[str, str]]]:
    """What proves the gateway to the authority, as header fields and as fields of the form. **Source:** RFC 6749 section 2.3.1."""
    if source.client_auth == "post":
        return [], [("client_id", source.client_id), ("client_secret", source.client_secret)]
    credentials = b64encode(f"{quote_plus(source.client_id)}:{quote_plus(source.client_secret)}".encode())
    return [(b"authorization", b"Basic " + credentials)], []


def build(name: str, source: Introspection, tools: Tools) -> IntrospectionAuthenticator:
    audiences = frozenset([source.audience] if isinstance(source.audience, str) else source.audience or ())
    authority = Authority(name, source, tools.opener)
    return IntrospectionAuthenticator(name, source, authority=authority, audiences=audiences, clock=tools.clock)
