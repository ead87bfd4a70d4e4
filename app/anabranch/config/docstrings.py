"""The meaning of a model's keys: the docstrings under its fields. Read from the source when documentation is written; a start needs none."""

import ast
import inspect
import sys
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue


def meanings(model: type[BaseModel]) -> dict[str, str]:
    """The docstring of each field that has one, by the name of the field."""
    found: dict[str, str] = {}
    for parent in reversed(model.__mro__):
        if issubclass(parent, BaseModel) and parent is not BaseModel:
            found |= _written(parent.__module__).get(parent.__qualname__, {})
    return {name: text for name, text in found.items() if name in model.model_fields}


@cache
def _written(module: str) -> dict[str, dict[str, str]]:
    """The docstrings of the fields in a module, by class."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: dict(_pairs(node)) for node in tree.body if isinstance(node, ast.ClassDef)}


def _pairs(node: ast.ClassDef) -> list[tuple[str, str]]:
    return [
        (field.target.id, inspect.cleandoc(below.value.value))
        for field, below in zip(node.body, node.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)
    ]


class DescribedSchema(GenerateJsonSchema):
    """Generates JSON Schemas in which the keys have their meaning as description."""

    def model_schema(self, schema: Any) -> JsonSchemaValue:
        made = super().model_schema(schema)
        model: type[BaseModel] = schema["cls"]
        for name, text in meanings(model).items():
            key = model.model_fields[name].alias or name
            if key in made.get("properties", {}):
                made["properties"][key].setdefault("description", text)
        return made
