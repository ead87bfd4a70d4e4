import errno
import select
import socket
import sys
from collections.abc import Iterator

import pytest

from anabranch.server.listener import accept_pending, block_new_connections

HOSTS = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")] if socket.has_dualstack_ipv6() else [(socket.AF_INET, "127.0.0.1")]


@pytest.fixture(params=HOSTS, ids=lambda host: host[1])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family, host = request.param
    with socket.socket(family) as made:
        made.bind((host, 0))
        made.listen(16)
        made.setblocking(False)
        yield made


def test_all_pending_connections_are_accepted(listener: socket.socket) -> None:
    assert accept_pending(listener) == []
    clients = [socket.create_connection(listener.getsockname()[:2]) for _ in range(5)]
    taken = accept_pending(listener)
    assert {one.getpeername() for one in taken} == {one.getsockname() for one in clients}
    assert not any(one.getblocking() for one in taken)
    for one in (*clients, *taken):
        one.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can do that")
def test_a_blocked_listener_keeps_pending_connections_and_admits_no_new_ones(listener: socket.socket) -> None:
    before = socket.create_connection(listener.getsockname()[:2])
    assert block_new_connections(listener)
    with socket.socket(listener.family) as newcomer:
        newcomer.setblocking(False)
        assert newcomer.connect_ex(listener.getsockname()) == errno.EINPROGRESS
        (taken,) = accept_pending(listener)
        with before, taken:
            before.sendall(b"a question")
            select.select([taken], [], [], 30)
            assert taken.recv(100) == b"a question"
            taken.setblocking(True)
            taken.sendall(b"x" * 10_000)
            taken.close()
            assert len(before.makefile("rb").read()) == 10_000
        listener.close()
        select.select([], [newcomer], [], 30)
        assert newcomer.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


def test_a_system_without_socket_filters_continues_to_listen(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert not block_new_connections(listener)
    with socket.create_connection(listener.getsockname()[:2]):
        (taken,) = accept_pending(listener)
        taken.close()
