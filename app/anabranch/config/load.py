"""Loads a gateway document: reads the files, substitutes variables, validates the models, and reports every problem at once.

Returns the valid parts, so that the compiler can report its own problems too before the document is rejected. Must not know references, graphs
or plans.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any

from anabranch.config.auth import JWT, Bearer
from anabranch.config.model import (
    TLS,
    Authentication,
    CallStep,
    Document,
    Endpoint,
    Parameter,
    Step,
    Upstream,
    checked_auth_name,
    checked_name,
    step_model,
)
from anabranch.config.node import Path
from anabranch.config.problems import Positions, Problems
from anabranch.config.secrets import Secrets
from anabranch.config.source import Source, read_source
from anabranch.config.substitute import fill
from anabranch.config.validate import Validator

# Replaces the steps while the rest of an endpoint is checked: each step is checked separately.
_ANY_STEP = CallStep(upstream="any", path="/")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Draft:
    """The valid parts of a document that may have problems.

    `document`: made of the valid parts. `endpoint_paths`: for each of its endpoints the path in the file, ("endpoints", index).
    `broken`: paths of the invalid parts: ("upstreams", name), ("auth", name), ("endpoints", i), ("endpoints", i, "steps", name), ("endpoints", i,
    "parameters", name), and the paths of their keys that were left out. A broken endpoint or step is in `document` if it is valid
    without the wrong key. Report a missing upstream or step as unknown only if `is_broken` is false for its path.
    `problems`: those found so far; add to them, then call `problems.raise_if_any()`. `files`: every file that was read, to be watched.
    `digest`: of the document's own files, without the secret files.
    """

    document: Document
    endpoint_paths: tuple[Path, ...]
    problems: Problems
    broken: frozenset[Path]
    files: tuple[File, ...]
    digest: str

    def is_broken(self, path: Path) -> bool:
        """Whether the part at `path`, or the mapping or list that contains it, has a problem that has been reported."""
        return path in self.broken or path[:-1] in self.broken

    @property
    def positions(self) -> Positions:
        return self.problems.positions

    @property
    def secrets(self) -> Secrets:
        return self.problems.secrets


def read(path: File, environ: Mapping[str, str], *, without_secrets: bool = False) -> Draft:
    """Read the valid parts of the document in the file or folder `path`, and the problems of the others.

    `without_secrets`: variables and secret files that do not exist here are warnings, and another value stands for them.
    Raises ConfigError only when a file cannot be read or is not YAML: later checks would report every name in that file as unknown.
    """
    problems = Problems()
    source = read_source(path, problems)
    problems.positions = Positions(source.root)
    draft = _draft(source, environ, problems, without_secrets=without_secrets)
    if not source.is_whole:
        problems.raise_if_any()
    return draft


def _draft(source: Source, environ: Mapping[str, str], problems: Problems, *, without_secrets: bool) -> Draft:
    if not source.root.entries and not source.is_whole:
        return Draft(
            document=Document(version=1),
            endpoint_paths=(),
            problems=problems,
            broken=frozenset(),
            files=source.files,
            digest=source.digest,
        )
    filled = fill(source.root, environ, problems, without_secrets=without_secrets)
    validator = Validator(filled, problems)
    data: dict[str, Any] = filled.data
    upstreams, auth, endpoints = data.get("upstreams"), data.get("auth"), data.get("endpoints")
    rest = {
        key: value
        for key, value in data.items()
        if not (key in ("upstreams", "auth") and isinstance(value, dict)) and not (key == "endpoints" and isinstance(value, list))
    }
    document = validator.check(Document, (), rest) or _without_version(rest, validator)
    store = document.store
    if store is not None and store.redis.tls is not None:
        redis = store.redis.model_copy(update={"tls": _resolved(store.redis.tls, ("store", "redis"), problems)})
        document = document.model_copy(update={"store": store.model_copy(update={"redis": redis})})
    good_upstreams = _upstreams(upstreams, validator, problems) if isinstance(upstreams, dict) else {}
    good_auth = _auth(auth, validator, problems) if isinstance(auth, dict) else {}
    good_endpoints: dict[Path, Endpoint] = {}
    for index, value in enumerate(endpoints if isinstance(endpoints, list) else []):
        if (endpoint := _endpoint(("endpoints", index), value, validator, problems)) is not None:
            good_endpoints["endpoints", index] = endpoint
    return Draft(
        document=document.model_copy(update={"auth": good_auth, "upstreams": good_upstreams, "endpoints": list(good_endpoints.values())}),
        endpoint_paths=tuple(good_endpoints),
        problems=problems,
        broken=frozenset(validator.broken),
        files=(*source.files, *filled.files),
        digest=source.digest,
    )


def _without_version(data: dict[str, Any], validator: Validator) -> Document:
    """The valid keys of a document whose version is missing or unknown, which has been reported."""
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
                upstream if upstream.tls is None else upstream.model_copy(update={"tls": _resolved(upstream.tls, path, problems)})
            )
    return upstreams


def _auth(data: dict[str, Any], validator: Validator, problems: Problems) -> dict[str, Authentication]:
    good: dict[str, Authentication] = {}
    for name, value in data.items():
        path = ("auth", name)
        _check_name(path, problems, checked_auth_name)
        source = validator.check(Authentication, path, value)
        if source is not None and path not in validator.broken:
            good[name] = _with_files(source, path, problems)
    return good


def _with_files(source: Authentication, path: Path, problems: Problems) -> Authentication:
    """`source` with its relative file paths resolved likewise."""
    kind = source.kind
    if not isinstance(kind, Bearer):
        return source
    (name,) = source.model_fields_set
    found: dict[str, object] = {}
    if kind.tls is not None:
        found["tls"] = _resolved(kind.tls, (*path, name), problems)
    if isinstance(kind, JWT) and kind.jwks_file is not None:
        found["jwks_file"] = str(File(problems.positions.locate((*path, name, "jwks_file")).file).parent / kind.jwks_file)
    return source.model_copy(update={name: kind.model_copy(update=found)}) if found else source


def _resolved(tls: TLS, path: Path, problems: Problems) -> TLS:
    """`tls` with its relative file paths resolved against the folder of the document file that names them, as `${file:PATH}` is."""
    found = {
        key: str(File(problems.positions.locate((*path, "tls", key)).file).parent / name)
        for key in ("ca", "cert", "key")
        if (name := getattr(tls, key))
    }
    return tls.model_copy(update=found) if found else tls


def _endpoint(path: Path, data: Any, validator: Validator, problems: Problems) -> Endpoint | None:
    """The endpoint with its valid steps and parameters. Each step and parameter is checked separately."""
    if not isinstance(data, dict):
        return validator.check(Endpoint, path, data)
    rest = dict(data)
    steps: dict[str, Step] = {}
    parameters: dict[str, Parameter] = {}
    if isinstance(data.get("steps"), dict) and data["steps"]:
        rest["steps"] = {"step": _ANY_STEP}
        for name, value in data["steps"].items():
            _check_name((*path, "steps", name), problems)
            if (step := validator.check(step_model(value), (*path, "steps", name), value)) is not None:
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


def _check_name(path: Path, problems: Problems, check: Callable[[str], str] = checked_name) -> None:
    try:
        check(str(path[-1]))
    except ValueError as error:
        problems.add(path, str(error), at_key=True)
