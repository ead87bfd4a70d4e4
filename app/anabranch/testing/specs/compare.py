"""Compares what came with what a spec expects, and says in a sentence each where they differ.

Pure: no sockets, no files. Numbers are compared with their types: 1, 1.0 and true are three different things.
"""

import json
from collections.abc import Iterator
from typing import Any

from anabranch.testing.specs.model import Expect, Headers, Text

_SHOWN = 2000


def headers(expected: Headers, all_of: dict[str, list[str]]) -> Iterator[str]:
    """Faults of header fields. `all_of`: every value by lower-case name."""
    for name, want in expected.items():
        came = all_of.get(name.lower(), [])
        if want is None:
            if came:
                yield f"header {name}: expected none, came {came}"
        elif isinstance(want, list):
            if came != want:
                yield f"header {name}: expected {want}, came {came}"
        elif not came and isinstance(want, Text) and want.contains is None and want.matches is None:
            continue  # what is not there excludes everything
        elif not came:
            yield f"header {name}: expected {want if isinstance(want, str) else want.model_dump(exclude_unset=True)}, there was none"
        elif isinstance(want, Text):
            if fault := want.fault(", ".join(came)):
                yield f"header {name}: {fault}, came {', '.join(came)!r}"
        elif came != [want]:
            yield f"header {name}: expected {want!r}, came {came[0] if len(came) == 1 else came!r}"


def exact(expected: Any, came: Any, at: str = "$") -> Iterator[str]:
    """Faults of a JSON value that must be equal, type for type. The order of an object's keys does not matter."""
    if type(expected) is not type(came):
        yield f"{at}: expected {shown(expected)}, came {shown(came)}"
    elif isinstance(expected, dict):
        for key in expected.keys() - came.keys():
            yield f"{at}.{key}: expected {shown(expected[key])}, it is not there"
        for key in came.keys() - expected.keys():
            yield f"{at}.{key}: expected nothing, came {shown(came[key])}"
        for key in expected.keys() & came.keys():
            yield from exact(expected[key], came[key], f"{at}.{key}")
    elif isinstance(expected, list):
        if len(expected) != len(came):
            yield f"{at}: expected {len(expected)} elements, came {len(came)}: {shown(came)}"
        for index, (want, have) in enumerate(zip(expected, came, strict=False)):
            yield from exact(want, have, f"{at}.{index}")
    elif expected != came:
        yield f"{at}: expected {shown(expected)}, came {shown(came)}"


def subset(expected: Any, came: Any, at: str = "$") -> Iterator[str]:
    """Faults of a JSON value that must hold at least `expected`. An array must have as many elements; a mapping of contains, excludes
    or matches stands for a text."""
    if isinstance(expected, dict) and expected and expected.keys() <= Text.model_fields.keys():
        if not isinstance(came, str):
            yield f"{at}: expected a text, came {shown(came)}"
        elif fault := Text.model_validate(expected).fault(came):
            yield f"{at}: {fault}, came {came!r}"
    elif isinstance(expected, dict) and isinstance(came, dict):
        for key, want in expected.items():
            if key not in came:
                yield f"{at}.{key}: expected {shown(want)}, it is not there"
            else:
                yield from subset(want, came[key], f"{at}.{key}")
    elif isinstance(expected, list) and isinstance(came, list):
        if len(expected) != len(came):
            yield f"{at}: expected {len(expected)} elements, came {len(came)}: {shown(came)}"
        for index, (want, have) in enumerate(zip(expected, came, strict=False)):
            yield from subset(want, have, f"{at}.{index}")
    else:
        yield from exact(expected, came, at)


def answer(expected: Expect, status: int, all_of: dict[str, list[str]], body: bytes) -> Iterator[str]:
    """Faults of one answer of the gateway."""
    if status != expected.status:
        yield f"status: expected {expected.status}, came {status}"
    yield from headers(expected.headers, all_of)
    if isinstance(expected.body, Text):
        if fault := expected.body.fault(body.decode("utf-8", "replace")):
            yield f"body: {fault}, came {body[:_SHOWN]!r}"
    elif expected.body is not None and body != expected.body.encode():
        yield f"body: expected {expected.body.encode()!r}, came {body[:_SHOWN]!r}"
    if "json_" in expected.model_fields_set:
        yield from _as_json(body, lambda came: exact(expected.json_, came))
    if expected.problem is not None:
        yield from _as_json(body, lambda came: subset(expected.problem, came))
        if all_of.get("content-type") != ["application/problem+json"]:
            yield f"header content-type: expected application/problem+json, came {all_of.get('content-type')}"


def every_answer(expected: Expect, status: int, all_of: dict[str, list[str]], body: bytes) -> Iterator[str]:
    """Faults of what holds for every answer of an endpoint and every problem, whatever a case expects.

    An error may have another content type than that of problems only where the case says so: a route in Python may answer as it likes.
    """
    request_id = all_of.get("x-request-id", [])
    media = all_of.get("content-type", [])
    is_ours = "gateway-complete" in all_of or media == ["application/problem+json"]
    if is_ours and (len(request_id) != 1 or not request_id[0]):
        yield f"header x-request-id: expected one, came {request_id}"
    if media == ["application/problem+json"] and body:
        yield from _as_json(body, lambda came: _problem(came, status, request_id))
    elif status >= 400 and body and not any(name.lower() == "content-type" for name in expected.headers):
        yield f"an answer with {status} is application/problem+json, came {media}"


def _problem(came: Any, status: int, request_id: list[str]) -> Iterator[str]:
    if not isinstance(came, dict):
        yield "a problem is an object"
        return
    for name in ("type", "title", "detail", "instance"):
        if not isinstance(came.get(name), str) or not came[name]:
            yield f"problem.{name}: expected a text, came {shown(came.get(name))}"
    if came.get("status") != status:
        yield f"problem.status: expected {status}, came {shown(came.get('status'))}"
    if request_id and request_id[0] not in str(came.get("instance")):
        yield f"problem.instance: expected the request id {request_id[0]}, came {shown(came.get('instance'))}"
    if "/problems/" not in str(came.get("type")):
        yield f"problem.type: expected a page under /problems/, came {shown(came.get('type'))}"


def _as_json(body: bytes, faults: Any) -> Iterator[str]:
    try:
        came = json.loads(body)
    except ValueError as fault:
        yield f"body: expected JSON, came {body[:_SHOWN]!r} ({fault})"
    else:
        yield from faults(came)


def shown(value: Any) -> str:
    """JSON text of a value, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"
