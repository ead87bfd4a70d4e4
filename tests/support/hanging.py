"""A supervisor with one worker that hangs in its first run and works in its second: `python -m tests.support.hanging FILE`."""

import signal
import socket
import sys
import time
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from anabranch.server.heartbeat import Heartbeat
from anabranch.server.workers import Supervisor


def live(lives: Path, number: int, listener: socket.socket, pipe: Connection) -> None:
    """The worker. Appends a line to `lives` for each run. The first run reports that it is up and then sends no heartbeat."""
    with lives.open("a") as file:
        file.write(f"life of {number}\n")
    is_first = len(lives.read_text().splitlines()) == 1
    pulse = Heartbeat(pipe, on_orphaned=sys.exit)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    pulse.up()
    while True:
        time.sleep(0.05)
        if not is_first:
            pulse.alive()


if __name__ == "__main__":
    supervisor = Supervisor(
        partial(live, Path(sys.argv[1])), count=1, listener=socket.socket(), on_up=lambda: None, stop_timeout_s=10, patience_s=2
    )
    sys.exit(supervisor.run())
