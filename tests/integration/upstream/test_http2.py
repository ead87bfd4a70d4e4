"""HTTP/2 services that end a connection or refuse a stream: what was certainly not processed is sent again, all else is not."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest
import trustme
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import RequestReceived

from anabranch.errors import ConnectionLost, ProtocolError, UpstreamError
from tests.support.leaks import no_leaks
from tests.support.rig import Caller, Rig

Ending = Callable[[H2Connection, int], None]
"""What a service does to the stream with this id instead of answering."""


def refuse(state: H2Connection, stream: int) -> None:
    state.reset_stream(stream, ErrorCodes.REFUSED_STREAM)


def go_away(state: H2Connection, stream: int) -> None:
    state.close_connection(last_stream_id=0)


def go_away_behind_the_last_one(state: H2Connection, stream: int) -> None:
    state.close_connection(last_stream_id=max(stream - 2, 0))


def go_away_in_trouble(state: H2Connection, stream: int) -> None:
    state.close_connection(ErrorCodes.ENHANCE_YOUR_CALM, last_stream_id=0)


def processed(state: H2Connection, stream: int) -> None:
    state.close_connection(last_stream_id=stream)


def cancel(state: H2Connection, stream: int) -> None:
    state.reset_stream(stream, ErrorCodes.CANCEL)


def fail(state: H2Connection, stream: int) -> None:
    state.reset_stream(stream, ErrorCodes.INTERNAL_ERROR)


def vanish(state: H2Connection, stream: int) -> None:
    """Nothing is said; the connection is closed."""


class Service(asyncio.Protocol):
    """Answers a request by the next of `script`: None for 200. `seen`: what has come, on which connection."""

    def __init__(self, script: list[Ending | None], seen: list[int], connections: list["Service"]) -> None:
        self._script = script
        self._seen = seen
        connections.append(self)
        self._number = len(connections)
        self._state = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._state.initiate_connection()
        self.transport.write(self._state.data_to_send())

    def data_received(self, data: bytes) -> None:
        is_over = False
        for event in self._state.receive_data(data):
            if is_over or not isinstance(event, RequestReceived):
                continue
            self._seen.append(self._number)
            ending = self._script.pop(0) if self._script else None
            stream = event.stream_id
            if ending is None:
                self._state.send_headers(stream, [(":status", "200")])
                self._state.send_data(stream, b"ok", end_stream=True)
            else:
                ending(self._state, stream)
                is_over = ending not in {refuse, cancel, fail}
        self.transport.write(self._state.data_to_send())
        if is_over:
            self.transport.close()


class Served:
    """`caller`: of the service. `seen`: the number of the connection on which each request came."""

    def __init__(self, caller: Caller, script: list[Ending | None], seen: list[int]) -> None:
        self.caller = caller
        self.script = script
        self.seen = seen

    async def post(self) -> Any:
        return await self.caller.ask("/x", method="POST", body=b"{}")


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2"])
    authority.issue_cert("127.0.0.1").configure_cert(context)
    script: list[Ending | None] = []
    seen: list[int] = []
    connections: list[Service] = []
    async with no_leaks():
        rig = Rig("httpx")
        server = await asyncio.get_running_loop().create_server(lambda: Service(script, seen, connections), "127.0.0.1", 0, ssl=context)
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield Served(rig.caller(url, http2=True, tls={"ca": str(tmp_path / "ca.pem")}), script, seen)
        await rig.aclose()
        for connection in connections:
            connection.transport.abort()
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("ending", [refuse, go_away, go_away_behind_the_last_one, go_away_in_trouble])
@pytest.mark.parametrize("earlier", [0, 2])
async def test_post_that_was_not_processed_is_sent_again(served: Served, ending: Ending, earlier: int) -> None:
    """RFC 9113 sections 6.8 and 8.7, on a new connection as on one that has served before."""
    served.script[:] = [*([None] * earlier), ending]
    for _ in range(earlier + 1):
        assert (await served.post()).body == b"ok"
    assert len(served.seen) == earlier + 2
    assert served.seen[-1] == (1 if ending is refuse else 2)


@pytest.mark.parametrize("ending", [processed, cancel, fail, vanish])
async def test_post_that_may_have_been_processed_is_not_sent_again(served: Served, ending: Ending) -> None:
    served.script[:] = [None, ending]
    await served.post()
    with pytest.raises((ConnectionLost, ProtocolError)) as caught:
        await served.post()
    assert caught.value.may_be_processed
    assert len(served.seen) == 2
    assert (await served.post()).body == b"ok"


async def test_request_is_sent_again_only_once(served: Served) -> None:
    served.script[:] = [refuse, refuse]
    with pytest.raises(UpstreamError) as caught:
        await served.post()
    assert not caught.value.may_be_processed
    assert len(served.seen) == 2


async def test_goodbye_of_the_service_fails_none_of_several_posts(served: Served) -> None:
    await served.post()
    served.script[:] = [go_away]
    await asyncio.gather(*(served.post() for _ in range(5)))
    assert served.script == []
