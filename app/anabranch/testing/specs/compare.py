"""Compares a response with what a spec expects, and describes each difference in one sentence.

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
        actual = all_of.get(name.lower(), [])
        if want is None:
            if actual:
                yield f"header {name}: expected none, got {actual}"
        elif isinstance(want, list):
            if actual != want:
                yield f"header {name}: expected {want}, got {actual}"
        elif not actual and isinstance(want, Text) and want.contains is None and want.matches is None:
            continue  # an absent field satisfies `excludes`
        elif not actual:
            yield f"header {name}: expected {want if isinstance(want, str) else want.model_dump(exclude_unset=True)}, got none"
        elif isinstance(want, Text):
            if fault := want.fault(", ".join(actual)):
                yield f"header {name}: {fault}, got {', '.join(actual)!r}"
        elif actual != [want]:
            yield f"header {name}: expected {want!r}, got {actual[0] if len(actual) == 1 else actual!r}"


def exact(expected: Any, actual: Any, at: str = "$") -> Iterator[str]:
    """Faults of a JSON value that must be equal, type for type. The order of an object's keys does not matter."""
    if type(expected) is not type(actual):
        yield f"{at}: expected {shown(expected)}, got {shown(actual)}"
    elif isinstance(expected, dict):
        for key in expected.keys() - actual.keys():
            yield f"{at}.{key}: expected {shown(expected[key])}, got nothing"
        for key in actual.keys() - expected.keys():
            yield f"{at}.{key}: expected nothing, got {shown(actual[key])}"
        for key in expected.keys() & actual.keys():
            yield from exact(expected[key], actual[key], f"{at}.{key}")
    elif isinstance(expected, list):
        if len(expected) != len(actual):
            yield f"{at}: expected {len(expected)} elements, got {len(actual)}: {shown(actual)}"
        for index, (want, have) in enumerate(zip(expected, actual, strict=False)):
            yield from exact(want, have, f"{at}.{index}")
    elif expected != actual:
        yield f"{at}: expected {shown(expected)}, got {shown(actual)}"


def subset(expected: Any, actual: Any, at: str = "$") -> Iterator[str]:
    """Faults of a JSON value that must contain at least `expected`. Arrays must have the same length; a mapping of contains, excludes or
    matches is compared with a text."""
    if isinstance(expected, dict) and expected and expected.keys() <= Text.model_fields.keys():
        if not isinstance(actual, str):
            yield f"{at}: expected a text, got {shown(actual)}"
        elif fault := Text.model_validate(expected).fault(actual):
            yield f"{at}: {fault}, got {actual!r}"
    elif isinstance(expected, dict) and isinstance(actual, dict):
        for key, want in expected.items():
            if key not in actual:
                yield f"{at}.{key}: expected {shown(want)}, got nothing"
            else:
                yield from subset(want, actual[key], f"{at}.{key}")
    elif isinstance(expected, list) and isinstance(actual, list):
        if len(expected) != len(actual):
            yield f"{at}: expected {len(expected)} elements, got {len(actual)}: {shown(actual)}"
        for index, (want, have) in enumerate(zip(expected, actual, strict=False)):
            yield from subset(want, have, f"{at}.{index}")
    else:
        yield from exact(expected, actual, at)


def answer(expected: Expect, status: int, all_of: dict[str, list[str]], body: bytes) -> Iterator[str]:
    """Faults of one response of the gateway."""
    if status != expected.status:
        yield f"status: expected {expected.status}, got {status}"
    yield from headers(expected.headers, all_of)
    if isinstance(expected.body, Text):
        if fault := expected.body.fault(body.decode("utf-8", "replace")):
            yield f"body: {fault}, got {body[:_SHOWN]!r}"
    elif expected.body is not None and body != expected.body.encode():
        yield f"body: expected {expected.body.encode()!r}, got {body[:_SHOWN]!r}"
    if "json_" in expected.model_fields_set:
        yield from _as_json(body, lambda actual: exact(expected.json_, actual))
    if expected.problem is not None:
        yield from _as_json(body, lambda actual: subset(expected.problem, actual))
        if all_of.get("content-type") != ["application/problem+json"]:
            yield f"header content-type: expected application/problem+json, got {all_of.get('content-type')}"


def every_answer(expected: Expect, status: int, all_of: dict[str, list[str]], body: bytes) -> Iterator[str]:
    """Faults against the rules for every endpoint response and every problem, whatever a case expects.

    An error may have another content type than that of problems only where the case says so: a Python route may answer as it likes.
    """
    request_id = all_of.get("x-request-id", [])
    media = all_of.get("content-type", [])
    is_ours = "gateway-complete" in all_of or media == ["application/problem+json"]
    if is_ours and (len(request_id) != 1 or not request_id[0]):
        yield f"header x-request-id: expected one, got {request_id}"
    if media == ["application/problem+json"] and body:
        yield from _as_json(body, lambda actual: _problem(actual, status, request_id))
    elif status >= 400 and body and not any(name.lower() == "content-type" for name in expected.headers):
        yield f"header content-type: expected application/problem+json for status {status}, got {media}"


def _problem(actual: Any, status: int, request_id: list[str]) -> Iterator[str]:
    if not isinstance(actual, dict):
        yield "a problem is an object"
        return
    for name in ("type", "title", "detail", "instance"):
        if not isinstance(actual.get(name), str) or not actual[name]:
            yield f"problem.{name}: expected a text, got {shown(actual.get(name))}"
    if actual.get("status") != status:
        yield f"problem.status: expected {status}, got {shown(actual.get('status'))}"
    if request_id and request_id[0] not in str(actual.get("instance")):
        yield f"problem.instance: expected the request id {request_id[0]}, got {shown(actual.get('instance'))}"
    if "/problems/" not in str(actual.get("type")):
        yield f"problem.type: expected a page under /problems/, got {shown(actual.get('type'))}"


def _as_json(body: bytes, faults: Any) -> Iterator[str]:
    try:
        actual = json.loads(body)
    except ValueError as fault:
        yield f"body: expected JSON, got {body[:_SHOWN]!r} ({fault})"
    else:
        yield from faults(actual)


def shown(value: Any) -> str:
    """JSON text of a value, truncated when long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"
