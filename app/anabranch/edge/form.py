"""Turns the fields of a form into JSON: an object with each field as its schema declares it.

A text that cannot be read as declared stays a text, and the check by the schema then says what is wrong with it.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from anabranch.core.percent import parse_query
from anabranch.core.upload import Upload
from anabranch.errors import InvalidBody
from anabranch.jsontext.proof import NotJSON, prove
from anabranch.jsontext.values import write
from anabranch.plan.model import FieldPlan
from anabranch.plan.parameters import read_text
from anabranch.plan.value import as_json

Fields = Mapping[str, list[str | Upload]]
"""The values of each field, in the order in which they came."""


def read_form(body: bytes, fields: Mapping[str, FieldPlan]) -> bytes:
    """JSON text of an urlencoded form. Raises InvalidBody."""
    values: dict[str, list[str | Upload]] = {}
    left = sum(1 for pair in body.split(b"&") if pair)
    for name, texts in parse_query(body).items():
        values[name] = [text for text in texts if text is not None]
        left -= len(values[name])
    if left:
        raise InvalidBody("the name or the value of a field is not UTF-8 text")
    return as_object(values, fields)


def as_object(values: Fields, fields: Mapping[str, FieldPlan]) -> bytes:
    """JSON text of the fields of a form. A field that is not declared is a text, or an array of texts when it came more than once."""
    members: dict[str, Any] = {}
    for name, several in values.items():
        field = fields.get(name)
        found = [msgspec.Raw(_json(value, "string" if field is None else field.kind)) for value in several]
        members[name] = found if len(found) != 1 or (field is not None and field.is_list) else found[0]
    return msgspec.json.encode(members)


def files_of(values: Fields, fields: Mapping[str, FieldPlan]) -> dict[str, list[Upload | bytes]]:
    """The values of the fields that have files: files, and JSON text of the texts among them."""
    files: dict[str, list[Upload | bytes]] = {}
    for name, several in values.items():
        if any(isinstance(value, Upload) for value in several):
            files[name] = [value if isinstance(value, Upload) else write(value) for value in several]
    return files


def _json(value: str | Upload, kind: str) -> bytes:
    if isinstance(value, Upload):
        return value.describe()
    if kind == "object":
        text = value.encode()
        try:
            prove(text)
        except NotJSON:
            return write(value)
        return text
    return as_json(read_text(kind, value))
