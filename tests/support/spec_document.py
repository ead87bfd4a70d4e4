"""Prepares a case for its run: the text of its gateway document, and the scripts of its upstreams.

Reads no files and opens no sockets.
"""

import json
from pathlib import Path
from typing import Any

from tests.support.behaviour import Behaviour
from tests.support.scripted import ScriptedUpstream
from tests.support.serving import LOOPBACK
from tests.support.spec_model import Case, SpecError

NOBODY = "nobody"
"""Placeholder `http://{nobody}`: an address where every connection is refused."""

DEADLINE = "10s"
"""Default timeout of endpoints and connect_timeout of upstreams: long enough that a busy machine never reaches it."""


def document_text(case: Case, ports: dict[str, int], folder: Path) -> str:
    """The text of the document that the gateway loads.

    A document given as text is used unchanged. Otherwise, missing parts are filled in: `version: 1`, the `url` of each scripted upstream
    and, if the document will be run, long default timeouts. `endpoint` alone becomes a document of that endpoint. `//{name}` is replaced by
    the address of an upstream, `{folder}` by the folder of the case's files.
    """
    if isinstance(case.document, str):
        text = case.document
    else:
        document: dict[str, Any] = case.document or {"upstreams": case.configure, "endpoints": [case.endpoint]}
        upstreams: dict[str, Any] = {name: {} for name in case.upstreams} | document.get("upstreams", {})
        for name, upstream in upstreams.items():
            if name in case.upstreams and isinstance(upstream, dict) and not upstream.keys() & {"url", "urls"}:
                upstreams[name] = {"url": f"http://{{{name}}}", **upstream}
        if case.expect_problems is None:
            document = {**document, "defaults": {"timeout": DEADLINE, **document.get("defaults", {})}}
            upstreams = {name: {"connect_timeout": DEADLINE, **upstream} for name, upstream in upstreams.items()}
        text = json.dumps({"version": 1, **document, "upstreams": upstreams}, indent=1, ensure_ascii=False)
    for name, port in ports.items():
        text = text.replace(f"//{{{name}}}", f"//{LOOPBACK}:{port}")
    return text.replace("{folder}", str(folder))


def script(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A scripted upstream's spec for `ScriptedUpstream`: text bodies become UTF-8, `bytes` becomes the body byte for byte.

    Raises SpecError for a key that scripted upstreams do not have.
    """
    is_bare = "routes" not in spec and any(key == "*" or key.startswith("/") or " " in key for key in spec)
    outer: dict[str, Any] = {"routes": spec} if is_bare else dict(spec)
    outer["routes"] = {
        route: [_behaviour(item) for item in (behaviour if isinstance(behaviour, list) else [behaviour])]
        for route, behaviour in outer.get("routes", {}).items()
    }
    try:
        ScriptedUpstream(outer)
    except (TypeError, ValueError) as fault:
        raise SpecError(f"upstream {name}: {fault}") from fault
    return outer


def _behaviour(spec: dict[str, Any]) -> Behaviour:
    given = dict(spec)
    if "bytes" in given:
        given["body"] = given.pop("bytes").encode("latin-1")
    elif isinstance(given.get("body"), str):
        given["body"] = given["body"].encode()
    # Large responses without large files: `body` repeated, or `raw` followed by `raw_repeat` repeated.
    if "raw_repeat" in given:
        given["raw"] = given.get("raw", "") + given.pop("raw_repeat") * given.pop("repeat", 1)
    elif "repeat" in given:
        given["body"] *= given.pop("repeat")
    try:
        return Behaviour.of(given)
    except (TypeError, ValueError) as fault:
        raise SpecError(f"not a behaviour: {fault}") from fault
