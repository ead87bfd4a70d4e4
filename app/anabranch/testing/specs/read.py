"""Reads spec files, and reports every mistake in them with file, line and column.

Must not know how a case is run.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from anabranch.config.node import Located, Mapping, Node, Scalar, Sequence
from anabranch.config.node import Path as NodePath
from anabranch.config.parse import parse
from anabranch.config.problems import Positions, Problems
from anabranch.config.substitute import Filled
from anabranch.config.validate import Validator
from anabranch.errors import Problem
from anabranch.testing.scripted.upstream import with_routes
from anabranch.testing.specs.model import Case, Shared

SUFFIXES: Final = frozenset({".yaml", ".yml"})


class SpecError(Exception):
    """A spec file, or a case, that cannot be run. The message has one line for each problem."""

    def __init__(self, problems: Iterable[Problem | str]) -> None:
        super().__init__("\n".join(map(str, problems)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One case of a file. `line`: where it begins. `document`: the document under test, unless the case has its own."""

    path: Path
    line: int
    case: Case
    document: Path | None


def spec_files(path: Path) -> list[Path]:
    """The spec files that `path` is or, as a folder, has in it and below it, in order of their names. Raises SpecError."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    if not path.is_file():
        raise SpecError([f"{path}: there is no such file or folder"])
    return [path]


def read_spec_file(path: Path, *, document: Path | None = None, default: Path | None = None) -> list[Spec]:
    """The cases of one file. `document`: tested instead of the document that the file names; `default`: where it names none. Raises SpecError
    with every mistake."""
    problems = Problems()
    root = _root(path, problems)
    if root is None:
        raise SpecError(problems.errors)
    problems.positions = Positions(root)
    broken: set[NodePath] = set()
    data = _plain(root, (), broken)
    validator = Validator(Filled(data=data, broken=broken), problems)
    cases = data.pop("cases", None)
    shared = validator.check(Shared, (), data)
    if not isinstance(cases, list) or not cases:
        problems.add(("cases",), "a spec file has a list of `cases`, with one at least", at_key=True)
        cases = []
    if document is None:
        document = default if shared is None or shared.document is None else path.parent / shared.document
    # What is shared has been checked, so a mistake in a case is one of its own.
    common = data if shared is not None and not problems.errors else {}
    found = [_case(validator, index, case, common) for index, case in enumerate(cases)]
    names: set[str] = set()
    for index, case in enumerate(found):
        at = ("cases", index)
        if case is None:
            continue
        if case.name in names:
            problems.add((*at, "name"), "two cases have this name", value=case.name)
        names.add(case.name)
        if not case.is_inline and document is None:
            problems.add(
                at,
                "the case has no document",
                hint="add `document: FILE` to the top of the file, or give the case an `endpoint` or a `document`",
            )
    if problems.errors:
        raise SpecError(problems.errors)
    return [
        Spec(path=path, line=problems.positions.locate(("cases", index)).line, case=case, document=None if case.is_inline else document)
        for index, case in enumerate(found)
        if case is not None
    ]


def _case(validator: Validator, index: int, data: Any, common: dict[str, Any]) -> Case | None:
    """A case with what it shares with the others of its file."""
    if isinstance(data, dict):
        data = {**data, **{key: {**common[key], **data.get(key, {})} for key in ("env", "settings") if key in common}}
        if "upstreams" in common:
            data["upstreams"] = _joined(common["upstreams"], data.get("upstreams", {}))
    return validator.check(Case, ("cases", index), data)


def _joined(common: dict[str, Any], own: Any) -> Any:
    """The scripts of both. Of one upstream in both, the case's script with those shared routes that none of its own covers. `own` has not been
    checked."""
    if not isinstance(own, dict):
        return own
    joined = {**common, **own}
    for name in common.keys() & own.keys():
        if isinstance(own[name], dict):
            first, then = with_routes(common[name]), with_routes(own[name])
            routes = then.get("routes", {})
            if isinstance(routes, dict):
                kept = {
                    route: script for route, script in first.get("routes", {}).items() if not any(_covers(new, route) for new in routes)
                }
                joined[name] = {**first, **then, "routes": {**kept, **routes}}
    return joined


def _covers(route: str, other: str) -> bool:
    """Whether every request to the route `other` would also match `route`."""
    path, other_path = route.rpartition(" ")[2], other.rpartition(" ")[2]
    method = route.rpartition(" ")[0]
    if method not in {"", other.rpartition(" ")[0]}:
        return False
    if path == "*":
        return True
    parts, other_parts = path.split("/"), other_path.split("/")
    return len(parts) == len(other_parts) and all(
        part == other_part or (part.startswith("{") and part.endswith("}")) for part, other_part in zip(parts, other_parts, strict=True)
    )


# ------------------------------------------------------------------------------------------------------------------ reading


def _root(path: Path, problems: Problems) -> Mapping | None:
    start = Located(str(path), 1, 1)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        problems.add_at(start, f"cannot be read: {error.strerror or type(error).__name__}")
        return None
    except UnicodeDecodeError:
        problems.add_at(start, "the file is not UTF-8", hint="save it as UTF-8")
        return None
    node = parse(text, str(path), problems.add_at)
    if problems.errors or isinstance(node, Mapping):
        return node if isinstance(node, Mapping) and not problems.errors else None
    problems.add_at(start if node is None else node.where, "a spec file is a mapping with `about` and `cases`")
    return None


def _plain(node: Node, path: NodePath, broken: set[NodePath]) -> Any:
    """The data of `node`. Unlike in a document, `${...}` is text: the gateway substitutes it in the documents of the cases."""
    if isinstance(node, Mapping):
        return {name: _plain(entry.value, (*path, name), broken) for name, entry in node.entries.items()}
    if isinstance(node, Sequence):
        return [_plain(item, (*path, index), broken) for index, item in enumerate(node.items)]
    assert isinstance(node, Scalar)
    if node.is_broken:
        broken.add(path)
    return node.value
