"""The Python code of a project that this process has imported: its digest, and what has changed on disk since.

Python imports a module once. A reload of the document does not import it again, and a worker that starts later imports what is there then. Both
must be visible, because answers depend on it.
"""

import hashlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from sysconfig import get_path
from typing import Final

from anabranch.core.metric import Sample, metric
from anabranch.errors import Problem

CODE: Final = metric(
    "gauge",
    "code",
    "digest",
    "Always 1. `digest`: of the project's Python files as this process imported them; differs where workers run different code.",
)
_SHOWN_DIGITS: Final = 12


class ProjectCode:
    """The files of a project's modules, with the digest of each when it was first seen."""

    def __init__(self) -> None:
        self._read: dict[Path, str] = {}

    @property
    def digest(self) -> str:
        """SHA-256 of the files' contents, in order of their paths; hexadecimal. "" while no code of a project has been imported."""
        if not self._read:
            return ""
        return hashlib.sha256("".join(self._read[file] for file in sorted(self._read)).encode()).hexdigest()

    def include(self, names: Iterable[str], folders: Iterable[Path]) -> None:
        """Note the files of modules that have been imported since the last call. Blocking.

        `names`: hooks and routers as the document has them, `module:attribute`. `folders`: of the project. Modules in these folders and in the
        top-level packages of these names count. Without names nothing does.
        """
        for file in _imported(names, folders):
            if file not in self._read:
                self._read[file] = _digest(file)

    def changed(self) -> list[Problem]:
        """A warning for each file that is not what it was when it was imported. Blocking."""
        return [
            Problem(
                file=str(file),
                line=0,
                column=0,
                path="",
                message="has changed since the gateway imported it: this process still runs the old code with the new document",
                hint="restart the gateway",
                is_warning=True,
            )
            for file, before in sorted(self._read.items())
            if _digest(file) != before
        ]

    def samples(self) -> Iterator[Sample]:
        """See `core.metric.Sampled`."""
        if digest := self.digest:
            yield Sample(CODE, (digest[:_SHOWN_DIGITS],), 1.0)


def _imported(names: Iterable[str], folders: Iterable[Path]) -> Iterator[Path]:
    packages = {name.partition(":")[0].partition(".")[0] for name in names}
    if not packages:
        return
    inside = tuple(folders)
    installed = (get_path("stdlib"), get_path("purelib"))
    for name, module in list(sys.modules.items()):
        written = getattr(module, "__file__", None)
        if not isinstance(written, str) or name.partition(".")[0] == "anabranch" or not written.endswith(".py"):
            continue
        file = Path(written)
        is_ours = (
            not written.startswith(installed)
            and "site-packages" not in file.parts
            and any(file.is_relative_to(folder) for folder in inside)
        )
        if is_ours or name.partition(".")[0] in packages:
            yield file


def _digest(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return "unreadable"
