"""The binary messages between the gateway, its fork server and its workers, which run on one machine from one installation.

Gateway and worker share a socket and an *arena*: an unnamed file, in memory if the system supports that. A payload above `ARENA_FROM` goes
through the arena: the loop copies it once, in large pieces, instead of sending it through the socket.
"""

import os
import tempfile
from struct import Struct
from typing import Final

ARENA_FROM: Final = 64 * 1024
"""Bytes. Up to this size a socket is faster (figures in docs/compute.md)."""

# Gateway to worker: is the payload in the arena, lengths of the hook's name, of the order and of the payload; then the name, the order, and the
# payload unless it is in the arena.
JOB: Final = Struct("<?HIQ")
# Worker to gateway: kind of the reply, is the payload in the arena, resident memory in bytes, length; then the payload unless it is in the
# arena.
REPLY: Final = Struct("<B?QQ")
READY: Final = b"\x01"

# Gateway to fork server and back: verb, number of the worker, and a process id or exit code.
ORDER: Final = Struct("<cIi")
FORK: Final = b"F"
KILL: Final = b"K"
WARM: Final = b"W"
FORKED: Final = b"P"
DIED: Final = b"D"


def make_arena() -> int:
    """The descriptor of a new arena, owned by the caller."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("anabranch-compute", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def write_all(fd: int, payload: bytes | memoryview, offset: int = 0) -> None:
    """Write the whole payload at `offset`. Blocks while it copies."""
    view = memoryview(payload)
    while view:
        written = os.pwrite(fd, view, offset)
        view = view[written:]
        offset += written


def read_all(fd: int, size: int) -> bytes:
    """The first `size` bytes. Raises EOFError if there are fewer."""
    content = os.pread(fd, size, 0)
    if len(content) == size:
        return content
    parts = [content]
    offset = len(content)
    while offset < size:
        part = os.pread(fd, size - offset, offset)
        if not part:
            raise EOFError("the arena is shorter than announced")
        parts.append(part)
        offset += len(part)
    return b"".join(parts)
