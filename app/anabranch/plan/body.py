"""Compiles the client's body of an endpoint: which content type it has, how the texts of a form become JSON, and the check by the schema.

Whatever the client sends, the rest of the gateway gets JSON: a form becomes an object, a text becomes a string, and a file becomes an object with
the keys `anabranch.core.upload.FILE_KEYS`. References, schemas, the journal and replay need to know nothing of forms.

**Source:** OpenAPI 3.1 sections 4.8.14.2 to 4.8.14.4 (files and forms in schemas).
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from anabranch.config import model as config
from anabranch.config.problems import Problems
from anabranch.core.upload import FILE_KEYS
from anabranch.jsontext.frame import Frame
from anabranch.jsontext.shape import Shape, Slots, compile_reader
from anabranch.jsontext.values import load_exactly
from anabranch.plan.model import BodyPlan, FieldPlan
from anabranch.plan.parameters import type_of
from anabranch.plan.reference import Reference
from anabranch.plan.schema import Schema, SchemaError
from anabranch.plan.shapes import part_of

Path = tuple[str | int, ...]

FILES: Final = Reference("body", (), meta="files")
"""The slot with the fields of the client's body that have files: their values by name, in order, each an `Upload` or JSON text."""

MEDIA_TYPES: Final = {
    "json": "application/json",
    "form": "application/x-www-form-urlencoded",
    "multipart": "multipart/form-data",
    "text": "text/plain",
}
_FORMS: Final = ("form", "multipart")
_FILE_KEYWORDS: Final = frozenset(
    {"type", "format", "contentMediaType", "maxLength", "minLength", "title", "description", "examples", "$comment", "deprecated"}
)
_ANY_TYPE: Final = "application/octet-stream"
_MOST_REFERENCES: Final = 20
_LISTED_BYTES: Final = 4 * 1024
"""Size of a body up to which all its faults are found. Of a larger one only the first is: a body of 1 MiB can have faults for 7 s of CPU time."""
_MOST_FAULTS: Final = 20


def compile_body(source: config.Body | None, slots: Slots, *, is_required: bool, max_size_bytes: int, files_slot: int | None) -> BodyPlan:
    """The plan of a body. `slots`: of the references to it. `files_slot`: of `FILES`; None when no step sends files. Raises SchemaError."""
    kind = "json" if source is None else source.type
    schema: dict[str, Any] | bool = True if source is None else source.schema_
    fields: dict[str, FieldPlan] = {}
    if kind in _FORMS:
        fields, schema = _fields(schema, has_files=kind == "multipart")
    validate = None if schema in (True, {}) else _check(Schema(schema), {name for name, field in fields.items() if field.is_file})
    fill = compile_reader(Shape(), slots) if slots else None

    def read(body: bytes, frame: Frame) -> None:
        if fill is not None:
            fill(body, frame)

    return BodyPlan(
        kind=kind,
        media_type=MEDIA_TYPES[kind].encode(),
        is_required=is_required if source is None else source.required,
        max_size_bytes=max_size_bytes,
        validate=validate,
        read=read,
        source=source,
        fields=fields,
        files_slot=files_slot,
    )


def report_body(source: config.Body, at: Path, problems: Problems) -> None:
    """Report what in the schema of a form or a text can never hold."""
    schema = source.schema_
    wanted = {"form": "object", "multipart": "object", "text": "string"}.get(source.type)
    if wanted is None or not isinstance(schema, dict):
        return
    if schema.get("type", wanted) != wanted:
        problems.add((*at, "schema", "type"), f"a body of type `{source.type}` is always of the type `{wanted}`", value=schema["type"])
    if source.type == "text":
        return
    for name, declared in _properties(schema).items():
        where = (*at, "schema", "properties", name)
        item, _ = _item(declared, schema)
        if not is_file(item):
            continue
        if source.type == "form":
            problems.add(where, "a form has no files", hint="use `type: multipart`", at_key=True)
        for keyword in sorted(set(item) - _FILE_KEYWORDS):
            problems.add(where, f"`{keyword}` has no effect on a file", at_key=True)


def shape_schema(source: config.Body) -> Any:
    """The JSON Schema of what references find in the body."""
    if source.type not in _FORMS:
        return source.schema_
    return _fields(source.schema_, has_files=source.type == "multipart")[1]


def is_file(schema: Any) -> bool:
    """Whether a schema describes a file, as OpenAPI 3.1 and 3.0 write it."""
    if not isinstance(schema, dict) or schema.get("type", "string") != "string" or "contentEncoding" in schema:
        return False
    return schema.get("format") == "binary" or "contentMediaType" in schema


def _fields(schema: Any, *, has_files: bool) -> tuple[dict[str, FieldPlan], Any]:
    """How each declared field of a form is read, and the schema of the object that the form becomes."""
    fields: dict[str, FieldPlan] = {}
    if not isinstance(schema, dict):
        return fields, {"type": "object"} if schema is True else schema
    properties: dict[str, Any] = {}
    for name, declared in _properties(schema).items():
        item, is_list = _item(declared, schema)
        if has_files and is_file(item):
            fields[name] = FieldPlan("file", is_list)
            of_one = _file_schema(item)
            properties[name] = {**_resolved(declared, schema), "items": of_one} if is_list else of_one
        else:
            fields[name] = FieldPlan(_kind(item), is_list)
            properties[name] = declared
    whole = {"type": "object", **schema}
    return fields, {**whole, "properties": properties} if properties else whole


def _properties(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    found = _resolved(schema, schema).get("properties")
    return found if isinstance(found, dict) else {}


def _resolved(schema: Any, whole: Any) -> dict[str, Any]:
    """The schema that a schema refers to; an empty one for what is no object."""
    for _ in range(_MOST_REFERENCES):
        if not isinstance(schema, dict) or "$ref" not in schema:
            break
        schema = part_of(whole, schema["$ref"])
    return schema if isinstance(schema, dict) else {}


def _item(declared: Any, whole: Any) -> tuple[dict[str, Any], bool]:
    """The schema of one value of a field, and whether the field has several."""
    schema = _resolved(declared, whole)
    if schema.get("type") == "array" or schema.get("type") == ["array", "null"]:
        return _resolved(schema.get("items"), whole), True
    return schema, False


def _kind(schema: dict[str, Any]) -> str:
    if schema.get("type") == "object":
        return "object"
    try:
        return type_of(schema)
    except SchemaError:  # several types: the text as it is
        return "string"


def _file_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of the object that stands for a file. `maxLength` and `minLength` count bytes (OpenAPI 3.1 section 4.8.14.2)."""
    size = {ours: schema[theirs] for theirs, ours in (("maxLength", "maximum"), ("minLength", "minimum")) if theirs in schema}
    properties: dict[str, Any] = {key: {} for key in sorted(FILE_KEYS)} | {"size": {"type": "integer", **size}}
    wanted = str(schema.get("contentMediaType", _ANY_TYPE)).lower()
    if wanted != _ANY_TYPE:
        start = wanted.removesuffix("*").replace(".", r"\.").replace("+", r"\+")
        properties["content_type"] = {"pattern": f"^{start}" if wanted.endswith("*") else f"^{start}( *;.*)?$"}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _check(schema: Schema, files: set[str]) -> Callable[[bytes], None]:
    def validate(body: bytes) -> None:
        try:
            value = load_exactly(body)
        except ValueError as error:
            raise ValueError(f"it cannot be checked: {error}") from None
        if schema.is_valid(value):
            return
        if files and (missing := [f"{name}: must be a file" for name in sorted(files) if name in value and not _has_files(value[name])]):
            raise ValueError(*missing)
        if len(body) > _LISTED_BYTES:
            raise ValueError(schema.first_fault(value))
        faults = list(schema.faults(value))
        if len(faults) > _MOST_FAULTS:
            faults[_MOST_FAULTS:] = [f"and {len(faults) - _MOST_FAULTS} more faults"]
        raise ValueError(*faults)

    return validate


def _has_files(value: Any) -> bool:
    return all(isinstance(item, dict) for item in (value if isinstance(value, list) else [value]))
