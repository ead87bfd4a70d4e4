"""Closes a listening socket without resetting connections: blocks new handshakes, then accepts everything already in the backlog.

Closing a listener resets the connections that the system has accepted and the process has not. One more can always arrive between the last
accept and the close. On Linux a socket filter therefore drops new connection attempts (SYN) first; handshakes in progress still complete. A
new client's system repeats its SYN a second later and is then refused. On other systems the gap remains: some microseconds.

**Source:** Linux, Documentation/networking/filter.rst (SO_ATTACH_FILTER; on a TCP socket the filter sees the TCP header); RFC 9293 section
3.1.
"""

import ctypes
import socket
import struct
import sys
from typing import Final

_SO_ATTACH_FILTER: Final = 26
# Classic BPF, (code, jump if true, jump if false, operand): load byte 13 of the TCP header; is SYN set? drop; keep the whole packet.
_NO_SYN: Final = b"".join(
    struct.pack("=HBBI", *instruction) for instruction in ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
)


def block_new_connections(listener: socket.socket) -> bool:
    """Block new connections at this socket, for all processes that share it. Returns False where the system cannot do that."""
    if sys.platform != "linux":
        return False
    program = ctypes.create_string_buffer(_NO_SYN, len(_NO_SYN))
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(_NO_SYN) // 8, ctypes.addressof(program)))
    except OSError:  # a sandbox without socket filters
        return False
    return True


def accept_pending(listener: socket.socket) -> list[socket.socket]:
    """Accept the pending connections of a non-blocking listener, without waiting for more. The connections are non-blocking too."""
    found: list[socket.socket] = []
    while True:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return found
        except OSError:  # the client has gone, or no file descriptor is left: the remaining connections are reset
            return found
        connection.setblocking(False)
        found.append(connection)
