"""A supervisor whose workers fail: `python -m tests.support.failing FOLDER COUNT LIVES...`.

`LIVES`: what a worker does in each of its lives, and in every later one like in the last: `serve`, or `up:END` or `END`, where END is `exit:CODE`,
`signal:NUMBER` or `raise`. A worker that is to end waits until every other one is up. Several workers: all but the last serve.
"""

import os
import signal
import socket
import sys
import time
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from anabranch.server.heartbeat import Heartbeat
from anabranch.server.workers import Supervisor


def live(folder: Path, count: int, lives: list[str], number: int, listener: socket.socket, pipe: Connection) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    pulse = Heartbeat(pipe)
    earlier = len(list(folder.glob(f"{number}-*")))
    (folder / f"{number}-{earlier}").touch()
    life = lives[min(earlier, len(lives) - 1)] if number == count - 1 else "serve"
    if life == "serve" or life.startswith("up:"):
        pulse.up()
    while life == "serve":
        time.sleep(0.05)
        pulse.alive()
    while not all((folder / f"{other}-0").exists() for other in range(count)):
        time.sleep(0.01)
    time.sleep(0.2)  # the supervisor has heard that all are up
    how, _, code = life.removeprefix("up:").partition(":")
    if how == "signal":
        os.kill(os.getpid(), int(code))
        time.sleep(60)
    if how == "raise":
        raise RuntimeError("broken on purpose")
    sys.exit(int(code))


if __name__ == "__main__":
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    supervisor = Supervisor(
        partial(live, folder, count, sys.argv[3:]),
        count=count,
        listener=socket.socket(),
        on_up=lambda: None,
        stop_timeout_s=10,
        pause_s=0.02,
    )
    sys.exit(supervisor.run())
