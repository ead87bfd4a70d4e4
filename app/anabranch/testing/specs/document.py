"""What a case with a document of its own becomes before it runs: the text of that document.

Reads no files and opens no sockets.
"""

import json
from pathlib import Path
from typing import Any, Final

from anabranch.testing.serving import LOOPBACK
from anabranch.testing.specs.model import Case

NOBODY: Final = "nobody"
"""Placeholder `http://{nobody}`: an address where every connection is refused."""

DEADLINE: Final = "10s"
"""What endpoints have that set no timeout, and upstreams that set no connect_timeout: so long that a busy machine meets it nowhere."""


def document_text(case: Case, ports: dict[str, int], folder: Path) -> str:
    """The document that the gateway is given.

    A document that is text is taken as it stands. Else what is left out is filled in: `version: 1`, for each scripted upstream its `url`, and,
    where the document is run, timeouts that are out of the way. `endpoint` alone becomes a document of that endpoint. `//{name}` becomes the
    address of an upstream, `{folder}` the folder of the case's files.
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
