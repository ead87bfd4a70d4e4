"""The last moments of a listening socket, so that closing it resets nobody: newcomers are turned away, who waits is taken.

A close resets the connections that the system has accepted and nobody has taken, and between the last look at them and the close there is
always room for one more. On Linux the socket is therefore made deaf first: it no longer sees that anybody wants to connect, while those
whose handshake is under way get through. A newcomer's system repeats its first packet a second later, and learns then that nobody listens.
Elsewhere the room is what it is: some microseconds. Knows sockets, and nothing of HTTP.

**Source:** Linux, Documentation/networking/filter.rst (SO_ATTACH_FILTER; on a TCP socket the filter sees the TCP header); RFC 9293 section 3.1.
"""

import ctypes
import socket
import struct
import sys
from typing import Final

_SO_ATTACH_FILTER: Final = 26
# Classic BPF, (code, jump if true, jump if false, operand): 13th byte of the TCP header; is SYN set? drop; keep all of it.
_NO_SYN: Final = b"".join(
    struct.pack("=HBBI", *instruction) for instruction in ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
)


def block_new_connections(listener: socket.socket) -> bool:
    """Let no new connection begin at this socket, for all processes that have it. False where the system cannot do that."""
    if sys.platform != "linux":
        return False
    program = ctypes.create_string_buffer(_NO_SYN, len(_NO_SYN))
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(_NO_SYN) // 8, ctypes.addressof(program)))
    except OSError:  # a sandbox that has no filters
        return False
    return True


def accept_pending(listener: socket.socket) -> list[socket.socket]:
    """The connections that wait at a listener that does not block, without waiting for more. They do not block either."""
    found: list[socket.socket] = []
    while True:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return found
        except OSError:  # its client has gone, or there are no more descriptors: whoever is left in line is reset
            return found
        connection.setblocking(False)
        found.append(connection)
