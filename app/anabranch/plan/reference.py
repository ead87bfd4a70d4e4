"""Parses templates: strings with references `{root.path.to.field}` in them. Knows only the grammar; the compiler resolves the roots.

`{step.$status}` is about a step, not in its value; `{list.*.id}` is an array of every element's `id`; `{person.manager?}` may be null.
"""

import re
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from anabranch.jsontext.path import Path, PathError, parse_paths, path_text, quote_end

AUTH: Final = "auth"
ROOTS: Final = ("path", "query", "header", "cookie", "body", AUTH)
"""Roots that refer to a part of the client's request, and to the client. Every other root is a step's name, or one of `LOCAL`."""

ITEM: Final = "item"
BATCH: Final = "batch"
VALUE: Final = "value"
LOCAL: Final = {
    ITEM: "the element that a step with `each` runs for",
    BATCH: "the keys that a step with `batch` asks for at once",
    VALUE: "the answer that `expect` and `until` judge",
}
"""Roots that are known only in some templates of a step, with what they stand for."""

_WHOLE_METADATA: Final = ("status", "ok", "code")
_HEADERS: Final = "headers"
LINES: Final = "lines"
"""Metadata that compilers use in place of `headers`, where every value of a field counts: as a list of bytes. It cannot be written."""
SOFT: Final = frozenset({"ok", "code"})
"""Metadata that a step has whatever became of it."""


class TemplateError(ValueError):
    """A string is not a valid template. The message is for the operator."""


@dataclass(frozen=True, slots=True)
class Reference:
    """`{root.a.0."b.c"}`: `root` is one of `ROOTS`, of `LOCAL` or a step's name, `path` the names and indexes below it.

    `meta`: what of the step itself it refers to: `status`, `ok`, `code`, or `headers`, whose name in lower case is the path then; "" for its
    value. `is_nullable`: written with `?`: where a value is needed and there is none, the step is not needed.
    """

    root: str
    path: Path
    meta: str = ""
    is_nullable: bool = False

    def __str__(self) -> str:
        parts = [] if self.meta and self.root == VALUE else [self.root]
        parts += [f"${self.meta}"] if self.meta else []
        parts += [path_text(self.path)] if self.path else []
        return f"{{{'.'.join(parts)}{'?' if self.is_nullable else ''}}}"

    @property
    def is_soft(self) -> bool:
        """Whether it has a value even when the step that it refers to has failed."""
        return self.meta in SOFT


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
            end = _closing_brace(text, at)
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


def _closing_brace(text: str, at: int) -> int:
    """The position of the brace that closes the one at `at`, outside of quotes; -1 when there is none."""
    while at < len(text):
        if text[at] == "}":
            return at
        # Only a name can be quoted: a quote behind anything but a dot is a mistake, which the caller reports.
        at = quote_end(text, at + 1) if text.startswith('."', at) else at + 1
        if at < 0:
            return -1
    return -1


def _reference(inner: str) -> Reference:
    is_nullable = inner.endswith("?")
    plain = inner[:-1] if is_nullable else inner
    root, dot, rest = (VALUE, ".", plain) if plain.startswith("$") else plain.partition(".")
    if not root or any(char.isspace() or char in '{"' for char in root) or _has_space(rest):
        raise TemplateError(f"{{{inner}}} is not a valid reference; write {{root.field}}, without spaces")
    if not dot:
        return Reference(root, (), is_nullable=is_nullable)
    try:
        if rest.startswith("$") and root not in _WITHOUT_METADATA:
            meta, path = _metadata(rest)
            return Reference(root, path, meta, is_nullable)
        return Reference(root, parse_paths(rest), is_nullable=is_nullable)
    except PathError as error:
        raise TemplateError(f"{{{inner}}} is not a valid reference: {error}") from None


_WITHOUT_METADATA: Final = frozenset({*ROOTS, ITEM, BATCH})


def _metadata(text: str) -> tuple[str, Path]:
    """What `$status` and the like refer to, and the path below it. Raises PathError."""
    name, dot, rest = text[1:].partition(".")
    if name in _WHOLE_METADATA:
        if dot:
            raise PathError(f"`${name}` is a single value, which has no members")
        return name, ()
    if name == _HEADERS:
        path = parse_paths(rest) if dot else ()
        if len(path) != 1:
            raise PathError("it names no header field; write `$headers.etag`, and a name with a dot in double quotes")
        return name, (path[0].lower(),)
    known = ", ".join(f"`${word}`" for word in (*_WHOLE_METADATA, _HEADERS))
    raise PathError(f"`${name}` is unknown: of a step there are {known}; a member of that name is written in double quotes")


def _has_space(path: str) -> bool:
    """Whether there is white space outside of quotes."""
    at = 0
    while 0 <= at < len(path):
        if path[at].isspace():
            return True
        at = quote_end(path, at) if path[at] == '"' else at + 1
    return False


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


_REFERENCE: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_-]*)(?:\.[^{}]*)?\}")


def in_fixed_text(node: Any, roots: Container[str]) -> str | None:
    """The first thing in a JSON value that looks like a reference to one of `roots`, in keys too; None when there is none.

    For what the document writes as fixed text: there a reference has no effect, and would be sent with its braces.
    """
    if isinstance(node, str):
        return next((found[0] for found in _REFERENCE.finditer(node) if found[1] in roots), None)
    parts: Iterable[Any] = [*node, *node.values()] if isinstance(node, dict) else node if isinstance(node, list) else ()
    return next((found for part in parts if (found := in_fixed_text(part, roots)) is not None), None)


def keys(node: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every key in a JSON template."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if isinstance(node, dict):
            yield (*path, key)
        yield from keys(value, (*path, key))
