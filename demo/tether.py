"""Runs a module as `python -m` would, and ends the process when its standard input ends.

    python -m demo.tether MODULE [ARGUMENT...]

The parent holds the other end of standard input and never writes to it. However the parent ends, even by SIGKILL, its end of the pipe
closes. The child then stops, instead of becoming an orphan that holds a port. This needs only pipes from the operating system.
"""

import os
import runpy
import signal
import sys
import threading
from typing import Final

GRACE_S: Final = 5.0
"""Seconds for an orderly stop before the process is ended."""


def _watch() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    last_resort = threading.Timer(GRACE_S, os._exit, args=(1,))
    last_resort.daemon = True
    last_resort.start()
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    threading.Thread(target=_watch, name="tether", daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
