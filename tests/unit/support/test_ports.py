import socket

from anabranch.testing.serving import LOOPBACK
from tests.support.ports import free_port, free_ports


def test_ports_differ_and_are_free() -> None:
    found = [*free_ports(20), free_port(), *free_ports(20)]
    assert len(set(found)) == 41
    for port in found:
        with socket.socket() as program:
            program.bind((LOOPBACK, port))


def test_a_port_that_is_taken_is_passed_over() -> None:
    with socket.create_server((LOOPBACK, free_port())) as taken:
        assert taken.getsockname()[1] not in free_ports(999)  # once around
