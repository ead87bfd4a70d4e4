"""httpx clients of an application in this process. respx patches httpx and httpcore, but does not intercept the requests of these clients."""

from collections.abc import Callable

import httpx
from anyio.from_thread import BlockingPortal
from starlette.types import ASGIApp

BASE_URL = "http://gateway"


class AsyncClient(httpx.AsyncClient):
    """`check`: called after each response; the request raises its exceptions."""

    def __init__(self, app: ASGIApp, check: Callable[[], None]) -> None:
        # Ignores the proxies in the environment: there is no network between client and application.
        super().__init__(transport=_Application(app, check), base_url=BASE_URL, trust_env=False)

    def _transport_for_url(self, url: httpx.URL) -> httpx.AsyncBaseTransport:
        """Overridden, because `respx.mock(using="httpx")` patches the method of the base class."""
        return self._transport


class Client(httpx.Client):
    """The same for synchronous tests. `portal`: to the event loop in which the application runs."""

    def __init__(self, app: ASGIApp, check: Callable[[], None], portal: BlockingPortal) -> None:
        super().__init__(transport=_Portal(_Application(app, check), portal), base_url=BASE_URL, trust_env=False)

    def _transport_for_url(self, url: httpx.URL) -> httpx.BaseTransport:
        return self._transport


class _Application(httpx.AsyncBaseTransport):
    def __init__(self, app: ASGIApp, check: Callable[[], None]) -> None:
        self._inner = httpx.ASGITransport(app)
        self._check = check

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._inner.handle_async_request(request)
        self._check()
        return response


class _Portal(httpx.BaseTransport):
    def __init__(self, inner: httpx.AsyncBaseTransport, portal: BlockingPortal) -> None:
        self._inner = inner
        self._portal = portal

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.read()  # turns the content into bytes, which both kinds of transport can read
        return self._portal.call(self._send, request)

    async def _send(self, request: httpx.Request) -> httpx.Response:
        response = await self._inner.handle_async_request(request)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        content = b"".join([part async for part in response.stream])
        return httpx.Response(response.status_code, headers=response.headers.raw, stream=httpx.ByteStream(content))
