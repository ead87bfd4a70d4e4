"""Services that write a response in several pieces with Nagle's algorithm on. The kernel must not hold their pieces back."""

import socket
import statistics
import threading
from collections.abc import Iterator
from time import perf_counter

import pytest

from tests.support.rig import Rig

pytestmark = pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="this system has no TCP_QUICKACK")

PIECES = {
    "head and body": [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", b"ab"],
    "head in two": [b"HTTP/1.1 200 OK\r\n", b"content-length: 2\r\n\r\nab"],
    "chunk by chunk": [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\na\r\n", b"1\r\nb\r\n", b"0\r\n\r\n"],
}


@pytest.fixture(params=list(PIECES))
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Like Python's http.server: one thread, one write for each piece, TCP_NODELAY off."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                while connection.recv(65536):
                    for piece in PIECES[request.param]:
                        connection.sendall(piece)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread.join(10)


async def test_pieces_are_acknowledged_at_once(rig: Rig, url: str) -> None:
    """RFC 1122 section 4.2.3.2 allows delaying an acknowledgement, which Linux does for 40 ms from the second exchange on."""
    caller = rig.caller(url)
    times = []
    for _ in range(12):
        began = perf_counter()
        assert (await caller.ask()).body == b"ab"
        times.append(perf_counter() - began)
    await caller.transport.aclose()
    assert statistics.median(times) < 0.02
