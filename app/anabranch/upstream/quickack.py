"""Acknowledges received bytes at once while a response is incomplete.

A service that writes head and body in two pieces with Nagle's algorithm on (Python's http.server, many Ruby, PHP and embedded servers) holds
the second piece back until the first one is acknowledged, and the kernel delays that by up to 40 ms on a connection that is used again.

**Source:** tcp(7), TCP_QUICKACK; RFC 9293 section 3.8.6.3 (delayed acknowledgements) and RFC 896 (Nagle).
"""

import socket
from contextlib import suppress
from typing import Final

_OPTION: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)


def acknowledge(sock: socket.socket) -> None:
    """Send the acknowledgement that the kernel delays, if there is one. Does nothing where the system has no such option (0.4 us)."""
    if _OPTION is not None:
        with suppress(OSError):  # closed meanwhile
            sock.setsockopt(socket.IPPROTO_TCP, _OPTION, 1)
