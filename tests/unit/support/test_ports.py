import socket

from anabranch.testing.serving import LOOPBACK
from tests.support.ports import free_port, free_ports


def test_ports_are_distinct_and_free() -> None:
    found = [*free_ports(20), free_port(), *free_ports(20)]
    assert len(set(found)) == 41
    for port in found:
        with socket.socket() as program:
            program.bind((LOOPBACK, port))


def test_a_port_in_use_is_skipped() -> None:
    with socket.create_server((LOOPBACK, free_port())) as taken:
        assert taken.getsockname()[1] not in free_ports(999)  # one full cycle
