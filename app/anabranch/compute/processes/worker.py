"""A worker process: reads one job after the other from its socket, calls the hook, and replies. It does not enforce deadlines: the gateway
has it killed. It ends when its socket is closed."""

import os
import resource
import socket
import sys

from anabranch.compute.call import JobReply, ReplyKind, call_hook, carry_out
from anabranch.compute.processes.frame import ARENA_FROM, JOB, READY, REPLY, read_all, write_all


def serve(connection: socket.socket, arena: int) -> None:
    """Run jobs until the gateway closes the connection. Blocks."""
    connection.setblocking(True)
    connection.sendall(READY)
    while (head := _receive(connection, JOB.size)) is not None:
        is_in_arena, name_size, order_size, size = JOB.unpack(head)
        name = _receive(connection, name_size)
        order = _receive(connection, order_size)
        payload = read_all(arena, size) if is_in_arena else _receive(connection, size)
        if name is None or order is None or payload is None:
            return
        reply = carry_out(name.decode(), order.decode(), payload) if order else call_hook(name.decode(), payload)
        del payload
        _flush()
        _send(connection, arena, reply)
        del reply


def _send(connection: socket.socket, arena: int, reply: JobReply) -> None:
    value = reply.payload
    is_in_arena = len(value) > ARENA_FROM
    if is_in_arena:
        try:
            write_all(arena, value)
        except OSError as error:  # out of memory
            reply = JobReply(ReplyKind.FAILED, f"the result of {len(value)} bytes cannot be sent to the gateway: {error}".encode())
            value, is_in_arena = reply.payload, False
    head = REPLY.pack(reply.kind, is_in_arena, _resident_bytes(), len(value))
    connection.sendall(head if is_in_arena else head + value)


def _receive(connection: socket.socket, size: int) -> bytes | None:
    """Exactly `size` bytes; None if the gateway has closed the connection."""
    content = bytearray()
    while len(content) < size:
        try:
            part = connection.recv(min(size - len(content), 1 << 18))
        except ConnectionError:
            return None
        if not part:
            return None
        content += part
    return bytes(content)


def _resident_bytes() -> int:
    """The resident memory of this process; where the system does not report it, its maximum so far."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - avoids an import in a worker
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _flush() -> None:
    """Flush the output of a hook, so that it is not lost if the worker is killed later."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue
