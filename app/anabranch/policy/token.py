"""Adds a bearer token to every request of an upstream, obtained by the OAuth2 client credentials grant or in exchange for the client's token.

`TokenSource` fetches and keeps a token; `TokenLayer` adds it to requests. Neither ever writes the token or the client secret into an
error, a note, an event or a repr. Other grants are not supported.
"""

import asyncio
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Final, Literal, Protocol
from urllib.parse import quote_plus, urlencode

import msgspec

from anabranch.core.exchange import Address, Answer, HeaderBlock, Request
from anabranch.core.tasks import cancel_and_wait
from anabranch.errors import DeadlineExceeded, NoClientToken, StepError, UpstreamError
from anabranch.plan.upstream import UpstreamPlan
from anabranch.policy.call import Call, Policy
from anabranch.policy.event import Observer, PolicyEvent
from anabranch.policy.tools import Tools
from anabranch.upstream.seam import Transport

FETCH_TIMEOUT_S: Final = 10.0
DEFAULT_LIFETIME_S: Final = 300.0
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0
INVALIDATE_PAUSE_S: Final = 10.0
MOST_EXCHANGED: Final = 10_000
# RFC 6749 section 5.2. Only these words of an authority's error response appear in our errors.
_ERRORS: Final = frozenset(
    ("invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope")
)


class _Grant(msgspec.Struct):
    """RFC 6749 section 5.1. Some authorities send `expires_in` as a string, or no `token_type`."""

    access_token: str
    token_type: str = "bearer"  # noqa: S105 - the kind of token
    expires_in: float | str | None = None


class _ErrorBody(msgspec.Struct):
    """RFC 6749 section 5.2."""

    error: str = ""


class TokenSource:
    """One token of an authority: that of the gateway, or one that a client's token is exchanged for.

    The token is fetched when it is first needed and renewed in the background after 80 to 90% of its lifetime (drawn by `random`, so that
    many gateways do not renew at once); calls use the old one meanwhile. All callers share one fetch, which this object owns: it goes on
    when a caller is cancelled or times out, and `aclose` cancels it and waits for its end. If the authority gives no lifetime,
    DEFAULT_LIFETIME_S is assumed. The last twentieth of the lifetime (at most 5 s) is not used, to allow for clock skew and network latency.

    After a failed fetch, no fetch starts for FIRST_PAUSE_S. The pause doubles after each failure up to LONGEST_PAUSE_S (each spread by up to
    a half), so that a failing authority is not flooded. Meanwhile calls without a valid token fail at once.

    **Source:** RFC 6749 sections 2.3.1 (client authentication: in a Basic header, both parts form-encoded first, or in the form), 3.2 (the
    query of the address is kept), 4.4 and 5; RFC 6750 section 2.1; RFC 8693 sections 2.1 and 2.2.
    """

    __slots__ = (
        "_address", "_clock", "_expires_at", "_failure", "_fetching", "_header", "_invalidate_at", "_is_closed", "_observer", "_pause_s",
        "_random", "_renew_at", "_request", "_retry_at", "_transport", "_upstream",
    )  # fmt: skip

    def __init__(
        self,
        transport: Transport,
        *,
        token_url: str,
        client_id: str,
        client_secret: str,
        client_auth: Literal["basic", "post"] = "basic",
        form: Mapping[str, str],
        clock: Callable[[], float],
        random: Callable[[], float],
        upstream: str,
        observer: Observer | None = None,
    ) -> None:
        """`transport`: to the authority; the caller opens and closes it. `form`: of the request, without the gateway's credentials. `clock`: the loop's time. `random`: draws
        from [0, 1)."""
        self._address, target = Address.parse_target(token_url)
        headers = [(b"content-type", b"application/x-www-form-urlencoded"), (b"accept", b"application/json")]
        if client_auth == "basic":
            credentials = b64encode(f"{quote_plus(client_id)}:{quote_plus(client_secret)}".encode())
            headers.append((b"authorization", b"Basic " + credentials))
        else:
            form = {**form, "client_id": client_id, "client_secret": client_secret}
        self._request = Request(
            method="POST",
            target=target,
            headers=HeaderBlock.of(headers),
            body=urlencode(form).encode(),
        )
        self._transport = transport
        self._clock = clock
        self._random = random
        self._upstream = upstream
        self._observer = observer
        self._header: bytes | None = None
        self._renew_at = 0.0
        self._expires_at = 0.0
        self._invalidate_at = 0.0
        self._retry_at = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._failure = ""
        self._fetching: asyncio.Task[None] | None = None
        self._is_closed = False

    def current(self) -> bytes | None:
        """The value of the authorization header if the token is valid, else None. Starts a renewal if one is due. Never waits."""
        now = self._clock()
        if self._header is None or now >= self._expires_at:
            return None
        if now >= self._renew_at and now >= self._retry_at and self._fetching is None and not self._is_closed:
            self._start_fetch()
        return self._header

    async def get(self, deadline: float) -> bytes:
        """The value of the authorization header; waits for a token if there is none.

        Raises UpstreamError if the authority issues no token, DeadlineExceeded if `deadline` (loop time) passes first.
        """
        while (header := self.current()) is None:
            if self._is_closed:
                raise UpstreamError("the gateway is shutting down and no longer fetches access tokens")
            if self._fetching is None:
                wait_s = self._retry_at - self._clock()
                if wait_s > 0:
                    raise UpstreamError(f"no access token for the service: {self._failure}", retry_after_s=wait_s)
                self._start_fetch()
            fetching = self._fetching
            assert fetching is not None
            try:
                async with asyncio.timeout_at(deadline):
                    # Awaiting the task directly would cancel it with the caller, and the caller with it.
                    await asyncio.wait([fetching])
            except TimeoutError:
                raise DeadlineExceeded("the deadline passed while waiting for an access token") from None
            if not fetching.cancelled():
                fetching.result()
        return header

    def invalidate(self, header: bytes) -> bool:
        """Discard `header`, which the upstream has rejected. Returns whether `get` may now return another token.

        Keeps a token that has replaced `header` meanwhile. A service that rejects every token causes at most one fetch in
        INVALIDATE_PAUSE_S: within it, returns False and keeps the token.
        """
        if header != self._header:
            return True
        now = self._clock()
        if now < self._invalidate_at:
            return False
        self._invalidate_at = now + INVALIDATE_PAUSE_S
        self._header = None
        return True

    async def aclose(self) -> None:
        """Cancel a fetch in progress and wait for its end. May be called twice."""
        self._is_closed = True
        if self._fetching is not None:
            await cancel_and_wait((self._fetching,))

    def _start_fetch(self) -> None:
        self._fetching = asyncio.create_task(self._fetch(), name="token")

    async def _fetch(self) -> None:
        began = self._clock()
        try:
            answer = await self._transport.exchange(self._request, self._address, began + FETCH_TIMEOUT_S)
            self._accept(answer, began)
        except StepError as error:
            self._fail(error.detail)
        finally:
            self._fetching = None
        self._report(self._failure and "failed", began)

    def _accept(self, answer: Answer, began: float) -> None:
        """Store the token from the authority's response. Raises UpstreamError if it contains no usable token."""
        if not 200 <= answer.status < 300:
            raise UpstreamError(_error_of(answer))
        try:
            grant = msgspec.json.decode(answer.body, type=_Grant)
            lifetime_s = DEFAULT_LIFETIME_S if grant.expires_in is None else float(grant.expires_in)
        except ValueError:
            # No cause: its message could contain the token.
            raise UpstreamError("the authority's response is not a token response (RFC 6749 section 5.1)") from None
        if grant.token_type.lower() != "bearer":
            raise UpstreamError("the authority issued a token that is not a bearer token")
        token = grant.access_token
        if not token or not all("\x21" <= char <= "\x7e" for char in token):
            raise UpstreamError("the authority issued a token that is empty or has characters that are not allowed in a header")
        if not lifetime_s > 0:
            raise UpstreamError("the authority issued a token that has already expired")
        self._header = b"Bearer " + token.encode()
        self._renew_at = began + lifetime_s * (0.8 + 0.1 * self._random())
        self._expires_at = began + lifetime_s - min(0.05 * lifetime_s, 5.0)
        self._pause_s = FIRST_PAUSE_S
        self._retry_at = 0.0
        self._failure = ""

    def _fail(self, reason: str) -> None:
        self._failure = reason
        self._retry_at = self._clock() + self._pause_s * (0.5 + self._random())
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _report(self, reason: str, began: float) -> None:
        if self._observer is not None:
            elapsed_s = self._clock() - began
            self._observer(PolicyEvent(upstream=self._upstream, kind="token", reason=reason or "fetched", elapsed_s=elapsed_s))


def _error_of(answer: Answer) -> str:
    try:
        error = msgspec.json.decode(answer.body, type=_ErrorBody).error
    except ValueError:
        error = ""
    return f"the authority answered {answer.status}" + (f" ({error})" if error in _ERRORS else "")


class Sources(Protocol):
    """Where the tokens of an upstream's calls come from."""

    def of(self, call: Call) -> TokenSource:
        """Of one call. Raises NoClientToken."""
        ...

    async def aclose(self) -> None: ...


class One:
    """The same token for all calls."""

    def __init__(self, source: TokenSource) -> None:
        self._source = source

    def of(self, _call: Call) -> TokenSource:
        return self._source

    async def aclose(self) -> None:
        await self._source.aclose()


class Exchanges:
    """A token for each token of a client, as long as that one is in use: the least recently used of more than MOST_EXCHANGED are forgotten. A client's token is kept only
    as a digest and in the request for its exchange. `make`: makes the source of one, from what the request for it has in its form besides."""

    def __init__(self, make: Callable[[Mapping[str, str]], TokenSource]) -> None:
        self._make = make
        self._sources: OrderedDict[bytes, TokenSource] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()

    def of(self, call: Call) -> TokenSource:
        token = token_of(call)
        key = sha256(token).digest()
        source = self._sources.get(key)
        if source is None:
            source = self._sources[key] = self._make({"subject_token": token.decode("ascii")})
            if len(self._sources) > MOST_EXCHANGED:
                self._forget(self._sources.popitem(last=False)[1])
        else:
            self._sources.move_to_end(key)
        return source

    def _forget(self, source: TokenSource) -> None:
        closing = asyncio.ensure_future(source.aclose())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        for source in (*self._sources.values(),):
            await source.aclose()
        if self._closing:
            await asyncio.wait(self._closing)


def token_of(call: Call) -> bytes:
    """The token of the client for whom a call is made. Raises NoClientToken."""
    token = b"" if call.principal is None else call.principal.credential
    if not token.isascii() or not token:
        raise NoClientToken("the call needs the token of a client, and there is none")
    return token


class TokenLayer:
    """Sends each request with the token that `source_of` its call has. It replaces any other authorization: of the document, a step or the client.

    On a 401 response the token is discarded, and an idempotent call is sent once more with a new one; any other call gets the 401.
    `call.request` is restored afterwards, so that the outer layers never see the token.
    """

    __slots__ = ("_next", "_sources")

    def __init__(self, next_: Policy, *, sources: Sources) -> None:
        self._next = next_
        self._sources = sources

    async def aclose(self) -> None:
        """End the fetches of tokens that are under way."""
        await self._sources.aclose()

    async def __call__(self, call: Call) -> Answer:
        source = self._sources.of(call)
        original = call.request
        bare = without_authorization(original)
        header = source.current() or await source.get(call.deadline)
        try:
            call.request = msgspec.structs.replace(bare, extra=(*bare.extra, (b"authorization", header)))
            answer = await self._next(call)
            if answer.status != 401 or not source.invalidate(header) or not call.is_idempotent:
                return answer
            call.note("token rejected: request sent again with a new token")
            header = await source.get(call.deadline)
            call.request = msgspec.structs.replace(bare, extra=(*bare.extra, (b"authorization", header)))
            return await self._next(call)
        finally:
            call.request = original


def without_authorization(request: Request) -> Request:
    """The request without authorization fields of its own: with two of them, the service would choose one."""
    headers, extra = request.headers, request.extra
    if any(field[0] == b"authorization" for field in headers.pairs):
        headers = HeaderBlock.of([field for field in headers.pairs if field[0] != b"authorization"])
    if any(field[0] == b"authorization" for field in extra):
        extra = tuple(field for field in extra if field[0] != b"authorization")
    if headers is request.headers and extra is request.extra:
        return request
    return msgspec.structs.replace(request, headers=headers, extra=extra)


def build(next_: Policy, upstream: UpstreamPlan, tools: Tools) -> TokenLayer | None:
    oauth2 = upstream.oauth2
    if oauth2 is None:
        return None

    def make(more: Mapping[str, str]) -> TokenSource:
        return TokenSource(
            tools.authority or tools.transport,
            token_url=oauth2.token_url,
            client_id=oauth2.client_id,
            client_secret=oauth2.client_secret,
            client_auth=oauth2.client_auth,
            form={**oauth2.form, **more},
            clock=tools.clock,
            random=tools.random,
            upstream=upstream.name,
            observer=tools.observer,
        )

    return TokenLayer(next_, sources=Exchanges(make) if oauth2.is_exchange else One(make({})))


def describe(upstream: UpstreamPlan) -> str | None:
    if upstream.oauth2 is None:
        return None
    return "token in exchange for the client's" if upstream.oauth2.is_exchange else "token by client credentials"
