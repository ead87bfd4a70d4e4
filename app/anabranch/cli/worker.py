"""The process of a worker, from its first import on. It imports little itself, so that the garbage collector is off while the gateway is imported."""

import socket
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from anabranch.server import gc_tuning

if TYPE_CHECKING:
    from anabranch.settings import Settings


def work(settings: "Settings", number: int, listener: socket.socket, pipe: Connection) -> None:
    """The main function of one of several workers. See `server.workers.Target`."""
    gc_tuning.pause()
    from anabranch.cli.serving import serve_with_others  # noqa: PLC0415

    serve_with_others(settings, number, listener, pipe)
