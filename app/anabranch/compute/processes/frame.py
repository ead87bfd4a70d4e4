"""The frames between the gateway, its fork server and its workers. All of them run on one machine, from one installation.

Gateway and worker share a socket and an *arena*: a file without a name, in memory where the system can do that. A payload above
`ARENA_FROM` goes through the arena, so that the loop copies it once in pieces, and not byte by byte through a socket.
"""

import os
import tempfile
from struct import Struct
from typing import Final

ARENA_FROM: Final = 64 * 1024
"""Bytes. Below it a socket is the quicker way (docs/compute.md has the figures)."""

# Gateway to worker: payload in the arena, length of the hook's name, length of the payload; then the name, and the payload if it is inline.
JOB: Final = Struct("<?HQ")
# Worker to gateway: kind of the reply, payload in the arena, resident memory in bytes, length; then the payload if it is inline.
REPLY: Final = Struct("<B?QQ")
READY: Final = b"\x01"

# Gateway to fork server, and back: verb, number of the worker, and a process id or exit code.
ORDER: Final = Struct("<cIi")
FORK: Final = b"F"
KILL: Final = b"K"
WARM: Final = b"W"
FORKED: Final = b"P"
DIED: Final = b"D"


def make_arena() -> int:
    """A descriptor of a new arena, to be closed by whoever made it."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("anabranch-compute", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def write_all(fd: int, payload: bytes | memoryview, offset: int = 0) -> None:
    """Write at `offset`; blocks for as long as the copying takes."""
    view = memoryview(payload)
    while view:
        written = os.pwrite(fd, view, offset)
        view = view[written:]
        offset += written


def read_all(fd: int, size: int) -> bytes:
    """The first `size` bytes."""
    content = os.pread(fd, size, 0)
    if len(content) == size:
        return content
    parts = [content]
    offset = len(content)
    while offset < size:
        part = os.pread(fd, size - offset, offset)
        if not part:
            raise EOFError("the arena is shorter than it was said to be")
        parts.append(part)
        offset += len(part)
    return b"".join(parts)
