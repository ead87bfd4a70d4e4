"""Loading a gateway document: files, substitution and models together, every problem at once, and the valid parts handed on.

`read` is for the compiler, which goes on to check what the models cannot see and then decides; `load` is for who needs the document alone.
Nothing here knows what references, graphs or plans are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any

from anabranch.config.model import TLS, Document, Endpoint, Parameter, Step, Upstream, checked_name
from anabranch.config.node import Path
from anabranch.config.problems import Positions, Problems
from anabranch.config.secrets import Secrets
from anabranch.config.source import Source, read_source
from anabranch.config.substitute import fill
from anabranch.config.validate import Validator
from anabranch.errors import Problem

# Stands in for the steps while the rest of an endpoint is checked: each step is checked by itself.
_ANY_STEP = Step(upstream="any", path="/")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Draft:
    """The valid parts of a document that may have problems.

    `document`: made of the valid parts. `endpoint_paths`: for each of its endpoints the path in the file, ("endpoints", index).
    `broken`: paths of what is wrong: ("upstreams", name), ("endpoints", i), ("endpoints", i, "steps", name), ("endpoints", i,
    "parameters", name) and the paths of their parts that were left out. A broken endpoint or step is in `document` if it can do
    without the wrong part; an upstream or a step that is not there is unknown only if it is not `is_broken`.
    `problems`: those found so far; add to them, then call `problems.raise_if_any()`. `files`: all that was read, for watching.
    `digest`: of the files of the document itself, without those that it takes secrets from.
    """

    document: Document
    endpoint_paths: tuple[Path, ...]
    problems: Problems
    broken: frozenset[Path]
    files: tuple[File, ...]
    digest: str

    def is_broken(self, path: Path) -> bool:
        """Whether what `path` names, or the mapping or list it belongs to, has a mistake that has been reported."""
        return path in self.broken or path[:-1] in self.broken

    @property
    def positions(self) -> Positions:
        return self.problems.positions

    @property
    def secrets(self) -> Secrets:
        return self.problems.secrets


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Loaded:
    """A document that its models accept. `positions`: where each part was written. `files`: all that was read, for watching."""

    document: Document
    positions: Positions
    secrets: Secrets
    warnings: list[Problem]
    files: tuple[File, ...]


def load(path: File, environ: Mapping[str, str]) -> Loaded:
    """The document in the file or folder `path`. Raises ConfigError with every problem, sorted by file, line and column."""
    draft = read(path, environ)
    draft.problems.raise_if_any()
    return Loaded(
        document=draft.document,
        positions=draft.positions,
        secrets=draft.secrets,
        warnings=draft.problems.warnings,
        files=draft.files,
    )


def read(path: File, environ: Mapping[str, str]) -> Draft:
    """The valid parts of the document in the file or folder `path`, and what is wrong with the others.

    Raises ConfigError only when a file cannot be read or is not YAML: with parts unseen nothing could be said about the rest.
    """
    problems = Problems()
    source = read_source(path, problems)
    problems.positions = Positions(source.root)
    draft = _drafted(source, environ, problems)
    if not source.is_whole:
        problems.raise_if_any()
    return draft


def _drafted(source: Source, environ: Mapping[str, str], problems: Problems) -> Draft:
    if not source.root.entries and not source.is_whole:
        return Draft(
            document=Document(version=1),
            endpoint_paths=(),
            problems=problems,
            broken=frozenset(),
            files=source.files,
            digest=source.digest,
        )
    filled = fill(source.root, environ, problems)
    validator = Validator(filled, problems)
    data: dict[str, Any] = filled.data
    upstreams, endpoints = data.get("upstreams"), data.get("endpoints")
    rest = {
        key: value
        for key, value in data.items()
        if not (key == "upstreams" and isinstance(upstreams, dict)) and not (key == "endpoints" and isinstance(endpoints, list))
    }
    document = validator.check(Document, (), rest) or _without_version(rest, validator)
    good_upstreams = _upstreams(upstreams, validator, problems) if isinstance(upstreams, dict) else {}
    good_endpoints: dict[Path, Endpoint] = {}
    for index, value in enumerate(endpoints if isinstance(endpoints, list) else []):
        if (endpoint := _endpoint(("endpoints", index), value, validator, problems)) is not None:
            good_endpoints["endpoints", index] = endpoint
    return Draft(
        document=document.model_copy(update={"upstreams": good_upstreams, "endpoints": list(good_endpoints.values())}),
        endpoint_paths=tuple(good_endpoints),
        problems=problems,
        broken=frozenset(validator.broken),
        files=(*source.files, *filled.files),
        digest=source.digest,
    )


def _without_version(data: dict[str, Any], validator: Validator) -> Document:
    """The document whose version is missing or unknown, which has been reported."""
    known = {key: value for key, value in data.items() if (key,) not in validator.broken}
    return Document.model_validate({**known, "version": 1}, by_alias=True, by_name=False)


def _upstreams(data: dict[str, Any], validator: Validator, problems: Problems) -> dict[str, Upstream]:
    upstreams: dict[str, Upstream] = {}
    for name, value in data.items():
        path = ("upstreams", name)
        _check_name(path, problems)
        upstream = validator.check(Upstream, path, value)
        if upstream is not None and path not in validator.broken:
            upstreams[name] = (
                upstream if upstream.tls is None else upstream.model_copy(update={"tls": _placed(upstream.tls, path, problems)})
            )
    return upstreams


def _placed(tls: TLS, path: Path, problems: Problems) -> TLS:
    """The files that it names, looked for beside the file of the document that names them, as `${file:PATH}` does."""
    found = {
        key: str(File(problems.positions.locate((*path, "tls", key)).file).parent / name)
        for key in ("ca", "cert", "key")
        if (name := getattr(tls, key))
    }
    return tls.model_copy(update=found) if found else tls


def _endpoint(path: Path, data: Any, validator: Validator, problems: Problems) -> Endpoint | None:
    """The endpoint with its valid steps and parameters, of which each is checked by itself."""
    if not isinstance(data, dict):
        return validator.check(Endpoint, path, data)
    rest = dict(data)
    steps: dict[str, Step] = {}
    parameters: dict[str, Parameter] = {}
    if isinstance(data.get("steps"), dict) and data["steps"]:
        rest["steps"] = {"step": _ANY_STEP}
        for name, value in data["steps"].items():
            _check_name((*path, "steps", name), problems)
            if (step := validator.check(Step, (*path, "steps", name), value)) is not None:
                steps[name] = step
    if isinstance(data.get("parameters"), dict):
        rest["parameters"] = {}
        for name, value in data["parameters"].items():
            if (parameter := validator.check(Parameter, (*path, "parameters", name), value)) is not None:
                parameters[name] = parameter
    endpoint = validator.check(Endpoint, path, rest)
    if endpoint is None:
        return None
    return endpoint.model_copy(update={"steps": steps, **({"parameters": parameters} if parameters else {})})


def _check_name(path: Path, problems: Problems) -> None:
    try:
        checked_name(str(path[-1]))
    except ValueError as error:
        problems.add(path, str(error), at_key=True)
