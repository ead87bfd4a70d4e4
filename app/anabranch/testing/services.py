"""Replaces the services of a document in a test: by a respx router, or by scripted services.

Both replace the transports of the upstreams. The document stays as it is, whatever transports it names, and timeouts, retries, breakers and
redirects work as in production. OAuth2 token calls are replaced too.
"""

import json
import re
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Self

import httpx

from anabranch.config.problems import did_you_mean
from anabranch.core.exchange import Address, Answer, BodySource, Request
from anabranch.errors import ConnectError, UpstreamError
from anabranch.plan.upstream import UpstreamPlan
from anabranch.testing.scripted.record import Answers
from anabranch.testing.scripted.upstream import Script, ScriptedUpstream
from anabranch.testing.serving import LOOPBACK
from anabranch.upstream.bridge import Bridge
from anabranch.upstream.open import open_transport
from anabranch.upstream.redirect import Redirecting
from anabranch.upstream.seam import Transport
from anabranch.upstream.stock import HTTPXTransport

if TYPE_CHECKING:
    import respx

OAUTH2: Final = ".oauth2"
"""`flights.oauth2` is the authority that issues the tokens of the upstream `flights`."""
_PART: Final = re.compile(r"<(\w+) (\w+) (.*?)>(?= AND |$)")
_OF_ADDRESS: Final = frozenset(("Method", "Scheme", "Host", "Port", "Path"))
_TOKEN: Final = json.dumps({"access_token": "test-token", "token_type": "bearer", "expires_in": 3600}).encode()


class UnexpectedCall(AssertionError):
    """The document called a service for which the test has no answer."""


@dataclass(slots=True)
class Call:
    """One exchange with a service; retries and redirects are further exchanges. `upstream`: its name, or `NAME.oauth2` for a token call. `url`:
    as in the document. `headers`: lower-case names, repeats kept. `status`: of the answer, None without an answer. `error`: the code of the
    failure, or ""."""

    upstream: str
    method: str
    url: str
    headers: list[tuple[str, str]]
    body: bytes
    status: int | None = None
    error: str = ""

    def header(self, name: str) -> str | None:
        """The first value of a header field, or None."""
        return next((value for key, value in self.headers if key == name.lower()), None)

    def json(self) -> Any:
        """The body as JSON. Raises ValueError when the body is not JSON."""
        return json.loads(self.body)


@dataclass(slots=True)
class Traffic:
    """The calls of the document to its services. `calls`: in the order in which they began. `unexpected`: a sentence for each call for which the
    test has no answer."""

    calls: list[Call] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    cause: Exception | None = None

    def stray(self, text: str, cause: Exception | None = None) -> None:
        if text not in self.unexpected:
            self.unexpected.append(text)
        self.cause = self.cause or cause

    def check(self) -> None:
        """Raises UnexpectedCall if there were unexpected calls since the last check."""
        texts, self.unexpected = self.unexpected, []
        cause, self.cause = self.cause, None
        if texts:
            raise UnexpectedCall("\n".join(texts)) from cause


class RoutedServices:
    """Services that are the routes of a respx router. A route with `pass_through()` calls the real service.

    `open`: for `assemble(stand_in=...)`.
    """

    def __init__(self, router: "respx.Router") -> None:
        self.traffic = Traffic()
        self._router = router

    def open(self, upstream: UpstreamPlan) -> Transport:
        inner = HTTPXTransport(
            _RouterTransport(self._router, upstream, self.traffic),
            connect_timeout_s=upstream.connect_timeout_s,
            max_response=upstream.max_response_bytes,
        )
        return _recorded(inner, upstream, self.traffic)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Does nothing: the router belongs to the test."""


class _RouterTransport(httpx.AsyncBaseTransport):
    """Passes each request to the router. An outcome other than a response or an exception of httpx fails the test."""

    def __init__(self, router: "respx.Router", upstream: UpstreamPlan, traffic: Traffic) -> None:
        self._router = router
        self._upstream = upstream
        self._traffic = traffic
        self._real: Bridge | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        from respx.models import AllMockedAssertionError, PassThrough  # noqa: PLC0415 - a router exists, so respx is installed

        await request.aread()
        call = f"{request.method} {request.url} of the upstream {_name(self._upstream)}"
        try:
            return await self._router.async_handler(request)
        except AllMockedAssertionError:
            routes = "".join(f"\n  {_shown(route)}" for route in self._router.routes) or " none"
            self._traffic.stray(f"no route matches the call {call}; the routes are:{routes}")
        except PassThrough:
            if self._real is None:
                self._real = Bridge(open_transport(self._upstream))
            return await self._real.handle_async_request(request)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError):
            raise  # a failure of the service, intended by the test
        except Exception as error:  # noqa: BLE001 - any exception of a side effect fails the test
            self._traffic.stray(f"the side effect for the call {call} raised {type(error).__name__}: {error}", error)
        raise httpx.LocalProtocolError("the test has no answer for this call", request=request)

    async def aclose(self) -> None:
        if self._real is not None:
            await self._real.aclose()


def _shown(route: "respx.Route") -> str:
    """A route in one line. The `repr` of respx patterns is `<Method eq 'GET'> AND <Host eq 'x'> AND <Path regex ...>`."""
    parts = _PART.findall(repr(route.pattern))
    exact = {kind: value.strip("'") for kind, operator, value in parts if kind in _OF_ADDRESS and operator == "eq"}
    host = f"{exact.get('Scheme', '*')}://{exact.get('Host', '*')}" + (f":{exact['Port']}" if "Port" in exact else "")
    rest = [f"{kind} {operator} {value}" for kind, operator, value in parts if kind not in exact]
    return ", ".join([f"{exact.get('Method', '*')} {host}{exact.get('Path', '/*')}", *rest])


class ScriptedServices:
    """Scripted services on sockets. `upstreams`: the services by name. A call to an upstream without a script is unexpected.

    `scripts`: by the name of the upstream, or `NAME.oauth2` for the authority that issues its tokens; an authority without a script issues
    `test-token`. `answers`: the number of responses that the client has received, for scripts that wait for it. `open`: for
    `assemble(stand_in=...)`. Raises ValueError for an invalid script.
    """

    def __init__(self, scripts: Mapping[str, Mapping[str, Any] | Script], answers: Answers | None = None) -> None:
        self.traffic = Traffic()
        self.upstreams = {name: ScriptedUpstream(script) for name, script in scripts.items()}
        answers = answers or Answers()
        for name, upstream in self.upstreams.items():
            try:
                upstream.join(self.upstreams, answers)
            except ValueError as error:
                raise ValueError(f"upstream {name}: {error}") from error
        self._opened: set[str] = set()
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as exits:
            for upstream in self.upstreams.values():
                await exits.enter_async_context(upstream)
            self._exits = exits.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()

    def open(self, upstream: UpstreamPlan) -> Transport:
        name = _name(upstream)
        self._opened.add(name)
        inner: Transport
        if name in self.upstreams:
            inner = _Rerouted(upstream, self.upstreams[name].port)
        elif upstream.is_authority:
            inner = _Issuer()
        else:
            inner = _Nobody(name, self.traffic)
        return _recorded(inner, upstream, self.traffic)

    def check_names(self, names: set[str] | None = None) -> None:
        """Raises ValueError if a script or one of `names` belongs to no upstream of the document. Call it when the gateway has started."""
        for name in sorted((names or set()) | set(self.upstreams)):
            if name not in self._opened:
                hint = did_you_mean(name, self._opened) or f"it has {', '.join(sorted(self._opened)) or 'none'}"
                raise ValueError(f"the document has no upstream {name}; {hint}")


class _Rerouted:
    """The upstream's own transport, connected to a scripted service by plain HTTP/1.1 on loopback."""

    def __init__(self, upstream: UpstreamPlan, port: int) -> None:
        self._port = port
        plain = tuple(self._address(address) for address in upstream.addresses)
        self._inner = open_transport(replace(upstream, addresses=plain, tls=None, http2=False, proxy=None, follow_redirects=0))

    def _address(self, address: Address) -> Address:
        return Address(scheme="http", host=LOOPBACK, port=self._port, base_path=address.base_path)

    async def exchange(self, request: Request, address: Address, deadline: float) -> Answer:
        return await self._inner.exchange(request, self._address(address), deadline)

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Issuer:
    """An authority that issues a token to every client."""

    async def exchange(self, request: Request, address: Address, deadline: float) -> Answer:
        return Answer(200, [(b"content-type", b"application/json")], _TOKEN)

    async def aclose(self) -> None:
        """Does nothing."""


class _Nobody:
    """An upstream without a script: every call is unexpected."""

    def __init__(self, name: str, traffic: Traffic) -> None:
        self._name = name
        self._traffic = traffic

    async def exchange(self, request: Request, address: Address, deadline: float) -> Answer:
        target = f"{address.base_path}{request.target}"
        self._traffic.stray(f"no script answers the call {request.method} {target} of the upstream {self._name}: add `{self._name}`")
        raise ConnectError("the test has no script for this service")

    async def aclose(self) -> None:
        """Does nothing."""


class _Recorded:
    """Records the calls that go through it."""

    def __init__(self, inner: Transport, name: str, traffic: Traffic) -> None:
        self._inner = inner
        self._name = name
        self._traffic = traffic

    async def exchange(self, request: Request, address: Address, deadline: float) -> Answer:
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in (*request.headers.pairs, *request.extra)]
        call = Call(self._name, request.method, f"{address.origin}{address.base_path}{request.target}", headers, _content(request.body))
        self._traffic.calls.append(call)
        try:
            answer = await self._inner.exchange(request, address, deadline)
        except UpstreamError as error:
            call.error = error.code
            raise
        except BaseException:
            call.error = "cancelled"
            raise
        call.status = answer.status
        return answer

    async def aclose(self) -> None:
        await self._inner.aclose()


def _content(body: bytes | BodySource | None) -> bytes:
    return body if isinstance(body, bytes) else b"" if body is None else body.read(0, len(body))


def _recorded(inner: Transport, upstream: UpstreamPlan, traffic: Traffic) -> Transport:
    recorded = _Recorded(inner, _name(upstream), traffic)
    return Redirecting(recorded, limit=upstream.follow_redirects) if upstream.follow_redirects else recorded


def _name(upstream: UpstreamPlan) -> str:
    return upstream.name + OAUTH2 * upstream.is_authority
