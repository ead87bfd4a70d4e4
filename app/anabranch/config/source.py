"""Reads the files of a gateway document: one file, or a folder whose files are joined into one document.

Decides which files are read and how they are joined. Knows only the top-level keys that are allowed in several files.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from anabranch.config.node import Entry, Located, Mapping, Scalar, Sequence
from anabranch.config.parse import parse
from anabranch.config.problems import Problems

_SUFFIXES: Final = frozenset({".yaml", ".yml"})
_JOINED: Final = frozenset({"upstreams", "endpoints", "routers"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The joined files. `files`: the files that were read, in order. `is_whole`: no file had to be left out.
    `digest`: SHA-256 of their names and contents, in hexadecimal digits."""

    root: Mapping
    files: tuple[Path, ...]
    is_whole: bool
    digest: str


def read_source(path: Path, problems: Problems) -> Source:
    """Read the file `path`, or the files `*.yaml` and `*.yml` of the folder `path` in the order of their names.

    Ignores sub-folders and names that begin with a dot (such as the `..data` of a Kubernetes volume). Follows symbolic links.
    Never raises: problems are added to `problems`.
    """
    files = document_files(path, problems)
    digest = hashlib.sha256()
    roots = [root for file in files if (root := _read(file, problems, digest)) is not None]
    is_whole = len(roots) == len(files) > 0
    if not roots:
        return Source(root=Mapping(Located(str(path), 1, 1)), files=files, is_whole=False, digest=digest.hexdigest())
    root = roots[0] if len(roots) == 1 else _joined(roots, problems)
    return Source(root=root, files=files, is_whole=is_whole, digest=digest.hexdigest())


def document_files(path: Path, problems: Problems) -> tuple[Path, ...]:
    """The files of the document `path`, in the order in which they are read."""
    try:
        if not path.is_dir():
            return (path,)
        entries = sorted(path.iterdir(), key=lambda entry: entry.name)
        files = tuple(entry for entry in entries if entry.suffix in _SUFFIXES and not entry.name.startswith(".") and not entry.is_dir())
    except OSError as error:
        _unreadable(path, error, problems)
        return ()
    if not files:
        problems.add_at(Located(str(path), 1, 1), "the folder has no *.yaml or *.yml file")
    return files


def _read(file: Path, problems: Problems, digest: "hashlib._Hash") -> Mapping | None:
    start = Located(str(file), 1, 1)
    try:
        data = file.read_bytes()
    except OSError as error:
        _unreadable(file, error, problems)
        return None
    except ValueError:
        problems.add_at(start, "not a valid file name")
        return None
    digest.update(b"%s\0%d\0" % (file.name.encode("utf-8", "surrogateescape"), len(data)))
    digest.update(data)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line_start = data.rfind(b"\n", 0, error.start) + 1
        column = len(data[line_start : error.start].decode("utf-8", "replace")) + 1
        where = Located(str(file), data.count(b"\n", 0, error.start) + 1, column)
        problems.add_at(where, "the file is not UTF-8", hint="save it as UTF-8")
        return None
    mistakes = len(problems.errors)
    node = parse(text, str(file), problems.add_at)
    if isinstance(node, Mapping):
        return node
    if node is None or (isinstance(node, Scalar) and node.value is None):
        if len(problems.errors) == mistakes:
            problems.add_at(start, "the file is empty", hint="a gateway document begins with `version: 1`")
    else:
        problems.add_at(node.where, "a gateway document must be a mapping", hint="it begins with `version: 1`")
    return None


def _unreadable(path: Path, error: OSError, problems: Problems) -> None:
    problems.add_at(Located(str(path), 1, 1), f"cannot be read: {error.strerror or type(error).__name__}")


def _joined(roots: list[Mapping], problems: Problems) -> Mapping:
    """Join several files into one mapping: upstreams are merged, lists are concatenated, any other key comes from the one file that has it."""
    whole = Mapping(roots[0].where)
    for root in roots:
        for name, entry in root.entries.items():
            earlier = whole.entries.get(name)
            if earlier is None:
                whole.entries[name] = Entry(entry.where, _copied(entry.value) if name in _JOINED else entry.value)
            elif name == "version":
                _same_version(earlier, entry, problems)
            elif isinstance(earlier.value, Mapping) and isinstance(entry.value, Mapping) and name == "upstreams":
                _add_upstreams(earlier.value, entry.value, problems)
            elif isinstance(earlier.value, Sequence) and isinstance(entry.value, Sequence) and name in _JOINED:
                earlier.value.items.extend(entry.value.items)
            elif name in _JOINED:
                kind = "mapping" if name == "upstreams" else "list"
                problems.add_at(entry.where, f"`{name}` must be a {kind} in every file that has it", path=(name,))
            else:
                problems.add_at(entry.where, f"`{name}` is allowed in only one file; it is also at {earlier.where}", path=(name,))
    return whole


def _copied(node: Mapping | Sequence | Scalar) -> Mapping | Sequence | Scalar:
    """A copy of a collection, because an alias may share the original. The items are not copied."""
    if isinstance(node, Mapping):
        return Mapping(node.where, dict(node.entries))
    return Sequence(node.where, list(node.items)) if isinstance(node, Sequence) else node


def _same_version(earlier: Entry, entry: Entry, problems: Problems) -> None:
    if isinstance(earlier.value, Scalar) and isinstance(entry.value, Scalar) and earlier.value.value == entry.value.value:
        return
    problems.add_at(entry.value.where, f"all files must have the same version; a different one is at {earlier.where}", path=("version",))


def _add_upstreams(whole: Mapping, more: Mapping, problems: Problems) -> None:
    for name, entry in more.entries.items():
        if (earlier := whole.entries.get(name)) is None:
            whole.entries[name] = entry
        else:
            problems.add_at(entry.where, f"the upstream `{name}` is already defined at {earlier.where}", path=("upstreams", name))
