"""Forms as a spec writes them: to the bytes of a request, and from the bytes that an upstream received.

Written apart from the gateway's own code, so that a mistake there is not made here too.

**Source:** RFC 7578 section 4, URL Standard section 5.
"""

import re
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import parse_qsl, quote_plus

from anabranch.testing.specs.model import FormField, Part, SeenPart

_BOUNDARY: Final = "spec-boundary-7MA4YWxk"
_PARAMETER: Final = re.compile(r';\s*(\w+)="([^"]*)"')


def urlencoded(fields: dict[str, FormField | list[FormField]]) -> bytes:
    """The body of a form."""
    return "&".join(f"{quote_plus(name)}={quote_plus(_text(value))}" for name, value in _each(fields)).encode()


def multipart(fields: dict[str, Any]) -> tuple[bytes, str]:
    """A multipart body and its content type."""
    lines: list[bytes] = []
    for name, value in _each(fields):
        part = value if isinstance(value, Part) else Part(text=_text(value))
        head = f'Content-Disposition: form-data; name="{name}"'
        if part.filename is not None:
            head += f'; filename="{part.filename}"'
        if part.content_type is not None:
            head += f"\r\nContent-Type: {part.content_type}"
        head += "".join(f"\r\n{name}: {text}" for name, text in part.headers.items())
        lines.append(f"--{_BOUNDARY}\r\n{head}\r\n\r\n".encode() + part.content + b"\r\n")
    lines.append(f"--{_BOUNDARY}--\r\n".encode())
    return b"".join(lines), f"multipart/form-data; boundary={_BOUNDARY}"


def form_faults(expected: dict[str, Any], body: bytes) -> Iterator[str]:
    """How a form differs from what was expected of it."""
    actual: dict[str, list[str]] = {}
    for name, value in parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=bool(body)):
        actual.setdefault(name, []).append(value)
    wanted = {name: [_text(item) for item in (value if isinstance(value, list) else [value])] for name, value in expected.items()}
    if wanted != actual:
        yield f"form: expected {wanted}, got {actual}"


def multipart_faults(expected: dict[str, Any], body: bytes, content_type: str) -> Iterator[str]:
    """How a multipart body differs from what was expected of it."""
    try:
        parts = list(_parts(body, content_type))
    except ValueError as fault:
        yield f"multipart: {fault}, got {body[:500]!r}"
        return
    wanted = list(_each(expected))
    if [name for name, _ in wanted] != [name for name, _, _, _ in parts]:
        yield f"multipart: expected the parts {[name for name, _ in wanted]}, got {[name for name, _, _, _ in parts]}"
        return
    for (name, want), (_, filename, media_type, content) in zip(wanted, parts, strict=True):
        part = want if isinstance(want, SeenPart) else SeenPart(text=_text(want))
        for what, one, other in (
            ("filename", part.filename, filename),
            ("content_type", part.content_type, media_type),
            ("content", None if part.content is None else part.content, content),
            ("size", part.size, len(content)),
        ):
            if one is not None and one != other:
                yield f"multipart: {what} of {name}: expected {one!r}, got {other[:500] if isinstance(other, bytes | str) else other!r}"
        if not isinstance(want, SeenPart) and filename is not None:
            yield f"multipart: {name}: expected a text, got a file"


def _each(fields: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        for item in value if isinstance(value, list) else [value]:
            yield name, item


def _text(value: FormField) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def _parts(body: bytes, content_type: str) -> Iterator[tuple[str, str | None, str | None, bytes]]:
    """Name, file name, content type and content of each part. Raises ValueError."""
    found = re.fullmatch(r'multipart/form-data; ?boundary="?([^"]{1,70})"?', content_type)
    if found is None:
        raise ValueError(f"the content type is {content_type}")
    mark = b"--" + found[1].encode()
    if body == mark + b"--\r\n":
        return
    if not body.startswith(mark + b"\r\n") or not body.endswith(b"\r\n" + mark + b"--\r\n"):
        raise ValueError("the body does not begin and end with its boundary")
    for part in body[len(mark) + 2 : -len(mark) - 6].split(b"\r\n" + mark + b"\r\n"):
        head, separator, content = part.partition(b"\r\n\r\n")
        if not separator:
            raise ValueError("a part has no empty line behind its head")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        disposition = fields.pop("Content-Disposition", "")
        parameters = dict(_PARAMETER.findall(disposition))
        if not disposition.startswith("form-data; name="):
            raise ValueError("a part has no name")
        media_type = fields.pop("Content-Type", None)
        if fields:
            raise ValueError(f"a part has the fields {sorted(fields)}")
        yield parameters["name"], parameters.get("filename"), media_type, content
