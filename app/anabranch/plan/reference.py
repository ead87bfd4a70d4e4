"""Parses templates: strings with references `{root.path.to.field}` in them. Knows only the grammar; the compiler resolves the roots."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

ROOTS: Final = ("path", "query", "header", "body")
"""Roots that refer to a part of the client's request. Every other root is a step's name."""


class TemplateError(ValueError):
    """A string is not a valid template. The message is for the operator."""


@dataclass(frozen=True, slots=True)
class Reference:
    """`{root.a.0.b}`: `root` is one of `ROOTS` or a step's name, `path` the fields and indexes below it, as text."""

    root: str
    path: tuple[str, ...]

    def __str__(self) -> str:
        return "{" + ".".join((self.root, *self.path)) + "}"


Template = tuple[str | Reference, ...]
"""Literal texts and references. Never two literals in a row, never an empty literal."""


def parse(text: str) -> Template:
    """Parse a string. `{{` and `}}` are literal braces. Raises TemplateError."""
    parts: list[str | Reference] = []
    literal: list[str] = []
    at = 0
    while at < len(text):
        char = text[at]
        if text.startswith(("{{", "}}"), at):
            literal.append(char)
            at += 2
        elif char == "{":
            end = text.find("}", at)
            if end < 0:
                raise TemplateError(f"the opening brace at character {at + 1} is never closed; write {{{{ for a literal brace")
            if literal:
                parts.append("".join(literal))
                literal = []
            parts.append(_reference(text[at + 1 : end]))
            at = end + 1
        elif char == "}":
            raise TemplateError(f"the closing brace at character {at + 1} has no opening brace; write }}}} for a literal brace")
        else:
            literal.append(char)
            at += 1
    if literal:
        parts.append("".join(literal))
    return tuple(parts)


def _reference(inner: str) -> Reference:
    root, *path = inner.split(".")
    if not root or not all(path) or any(char.isspace() or char == "{" for char in inner):
        raise TemplateError(f"{{{inner}}} is not a valid reference; write {{root.field}}, without spaces")
    return Reference(root, tuple(path))


def is_whole(template: Template) -> bool:
    """Whether the string is exactly one reference. Such a reference keeps the JSON type of its value."""
    return len(template) == 1 and isinstance(template[0], Reference)


def strings(node: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Every string value in a JSON template, with its path. Keys are not templates."""
    if isinstance(node, str):
        yield path, node
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from strings(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from strings(value, (*path, index))
