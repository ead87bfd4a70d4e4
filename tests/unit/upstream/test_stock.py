"""Our seam over that of httpx: exceptions, limits and requests, with respx in place of a pool."""

import asyncio
import gzip
import socket
import ssl
from collections.abc import AsyncIterator

import httpx
import pytest
import respx

from anabranch.core.exchange import Address, Answer, HeaderBlock, Request
from anabranch.errors import (  # fmt: skip
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    ProtocolError,
    ResolveError,
    ResponseTooLarge,
    TLSError,
    UpstreamError,
    UpstreamTimeout,
)
from anabranch.upstream.stock import HTTPXTransport

ADDRESS = Address.parse("https://service.example/base")


async def ask(router: respx.MockRouter, request: Request | None = None, *, within_s: float = 5.0, max_response: int = 1000) -> Answer:
    async with HTTPXTransport(httpx.MockTransport(router.async_handler), max_response=max_response) as transport:
        return await transport.exchange(
            request or Request(method="GET", target="/x?q=1"), ADDRESS, asyncio.get_running_loop().time() + within_s
        )


@pytest.fixture
def router() -> respx.MockRouter:
    return respx.MockRouter(using=None, assert_all_called=False)


async def test_mocked_answer_is_returned(router: respx.MockRouter) -> None:
    route = router.post("https://service.example/base/x", params={"q": "1"}).respond(201, json={"id": 7}, headers={"X-A": "b"})
    request = Request(
        method="POST", target="/x?q=1", headers=HeaderBlock.of([(b"x-fixed", b"1")]), extra=((b"x-extra", b"2"),), body=b'{"a":1}'
    )
    answer = await ask(router, request)
    assert (answer.status, answer.body, answer.header(b"x-a")) == (201, b'{"id":7}', b"b")
    sent = route.calls.last.request
    assert (sent.headers["x-fixed"], sent.headers["x-extra"], sent.headers["content-length"]) == ("1", "2", "7")
    assert sent.headers["host"] == "service.example"


async def test_codings_are_decoded_by_our_decoder(router: respx.MockRouter) -> None:
    router.get().mock(httpx.Response(200, headers={"content-encoding": "gzip"}, stream=httpx.ByteStream(gzip.compress(b"[1]"))))
    assert (await ask(router)).body == b"[1]"


async def test_too_large_an_answer_is_rejected(router: respx.MockRouter) -> None:
    router.get().respond(200, content=b"x" * 11)
    with pytest.raises(ResponseTooLarge):
        await ask(router, max_response=10)


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


FAILURES: list[tuple[Exception, type[UpstreamError], bool]] = [
    (httpx.ConnectTimeout("x"), ConnectTimeout, False),
    (httpx.PoolTimeout("x"), ConnectTimeout, False),
    (httpx.ReadTimeout("x"), UpstreamTimeout, True),
    (httpx.WriteTimeout("x"), UpstreamTimeout, True),
    (httpx.ConnectError("x"), ConnectError, False),
    (caused(httpx.ConnectError("x"), ConnectionRefusedError()), ConnectError, False),
    (caused(httpx.ConnectError("x"), socket.gaierror(-2, "secret.host")), ResolveError, False),
    (caused(httpx.ConnectError("x"), ssl.SSLError(1, "secret.host")), TLSError, False),
    (caused(httpx.ConnectError("x"), TLSError("the certificate has expired")), TLSError, False),
    (httpx.ReadError("x"), ConnectionLost, True),
    (httpx.WriteError("x"), ConnectionLost, True),
    (httpx.CloseError("x"), ConnectionLost, True),
    (httpx.RemoteProtocolError("Server disconnected without sending a response."), ConnectionLost, True),
    (httpx.RemoteProtocolError("peer closed connection without sending complete message body"), ConnectionLost, True),
    (httpx.RemoteProtocolError("illegal status line"), ProtocolError, True),
    (httpx.LocalProtocolError("x"), ProtocolError, False),
    (httpx.ProxyError("x"), ConnectError, False),
    (httpx.UnsupportedProtocol("x"), ProtocolError, False),
    (httpx.InvalidURL("x"), ProtocolError, False),
    (OSError("secret.host"), ConnectionLost, True),
]


class Failing(httpx.AsyncBaseTransport):
    """Raises `error` with its own cause; respx would replace the cause."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.calls = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.calls += 1
        raise self.error


@pytest.mark.parametrize(("error", "kind", "may_be_processed"), FAILURES)
async def test_each_httpx_exception_is_mapped_to_ours(error: Exception, kind: type[UpstreamError], may_be_processed: bool) -> None:
    inner = Failing(error)
    async with HTTPXTransport(inner) as transport:
        with pytest.raises(UpstreamError) as caught:
            await transport.exchange(Request(method="GET", target="/"), ADDRESS, asyncio.get_running_loop().time() + 5)
    assert type(caught.value) is kind
    assert caught.value.may_be_processed is may_be_processed
    assert "secret" not in caught.value.detail
    assert inner.calls == 1


async def test_error_of_a_mocked_route_is_translated(router: respx.MockRouter) -> None:
    router.get().mock(side_effect=httpx.ConnectTimeout)
    with pytest.raises(ConnectTimeout):
        await ask(router)


class Body(httpx.AsyncByteStream):
    def __init__(self, *, hangs: bool) -> None:
        self.hangs = hangs
        self.is_closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"part"
        if self.hangs:
            await asyncio.get_running_loop().create_future()

    async def aclose(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize("how", ["whole", "cancelled", "late", "too large"])
async def test_response_is_closed_on_every_outcome(router: respx.MockRouter, how: str) -> None:
    body = Body(hangs=how in {"cancelled", "late"})
    router.get().mock(httpx.Response(200, stream=body))
    task = asyncio.create_task(ask(router, within_s=0.5 if how == "late" else 30.0, max_response=3 if how == "too large" else 10))
    await asyncio.sleep(0)
    await asyncio.sleep(0.005)
    if how == "cancelled":
        task.cancel()
    (result,) = await asyncio.gather(task, return_exceptions=True)
    expected = {"whole": Answer, "cancelled": asyncio.CancelledError, "late": UpstreamTimeout, "too large": ResponseTooLarge}[how]
    assert isinstance(result, expected)
    assert body.is_closed


async def test_other_exceptions_are_not_hidden(router: respx.MockRouter) -> None:
    """A request without a mocked route must fail the test."""
    with pytest.raises(AssertionError, match="not mocked"):
        await ask(router)


async def test_respx_intercepts_a_client_on_our_wire() -> None:
    """`using="httpx"` patches the client, so it does not matter which transport is below."""
    with respx.mock(using="httpx") as mock:
        mock.get("http://service.example/").respond(json=1)
        async with httpx.AsyncClient() as client:
            assert (await client.get("http://service.example/")).json() == 1
