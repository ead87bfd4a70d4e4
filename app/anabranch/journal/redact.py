"""Removes secrets before they reach the journal: header values, query values and parts of bodies. Compiled from the document's `redact`.

Bodies are parsed only along the redacted paths; everything else keeps its spelling. Redaction runs before a record is queued, so the queue
holds no secrets.
"""

from typing import Any, Final
from urllib.parse import unquote_plus

from msgspec import Raw

from anabranch.config.journal import Redact
from anabranch.errors import InvalidJSON
from anabranch.jsontext.path import parse_path, path_text
from anabranch.jsontext.raw import Tree, encode, items, members, prepare, tree, validate

MASK: Final = "***"
_MASK_JSON: Final = Raw(b'"***"')
_ANYWHERE: Final = "**."


class UnreadableBody(ValueError):
    """The body may contain something to redact but is not JSON, so that it cannot be found. The body must not be kept."""


class Redaction:
    """The document's rules. `for_step(name)` returns the rules for the bodies that this step sends and receives."""

    __slots__ = ("_headers", "_query", "_rules", "body")

    def __init__(self, rules: Redact) -> None:
        self._rules = rules
        self._headers = frozenset(name.lower() for name in rules.headers)
        self._query = frozenset(name.lower() for name in rules.query)
        self.body = BodyRedaction(rules.paths)

    def for_step(self, name: str) -> "BodyRedaction":
        """Return the rules for one step's bodies: all paths as listed, and those that begin with the step's name also without it.

        In a response with one member for each step, a path is `payment.card.number`; in the answer of the step `payment` it is
        `card.number`.
        """
        paths = [parse_path(path) for path in self._rules.paths if not path.startswith(_ANYWHERE)]
        own = [path_text(path[1:]) for path in paths if path[0] == name and len(path) > 1]
        return BodyRedaction([*self._rules.paths, *own]) if own else self.body

    def header(self, name: str, value: str) -> str:
        """Return the value, masked if the rules list `name` (lower case)."""
        return MASK if name in self._headers else value

    def is_secret_parameter(self, name: str) -> bool:
        return name.lower() in self._query

    def query(self, query: str) -> str:
        """Return a query string (without `?`) with the values of secret parameters masked."""
        if not query or not self._query or not self._may_hold_secret(query):
            return query
        pairs = []
        for pair in query.split("&"):
            name, separator, _ = pair.partition("=")
            is_secret = separator and self.is_secret_parameter(unquote_plus(name))
            pairs.append(f"{name}={MASK}" if is_secret else pair)
        return "&".join(pairs)

    def target(self, target: str) -> str:
        """Return a request target (path and query) with the values of secret parameters masked."""
        path, separator, query = target.partition("?")
        return f"{path}?{self.query(query)}" if separator else target

    def _may_hold_secret(self, query: str) -> bool:
        """A cheap check first: most queries contain neither a secret name nor an encoded character that could be part of one."""
        if "%" in query or "+" in query:
            return True
        folded = query.lower()
        return any(name in folded for name in self._query)


class BodyRedaction:
    """Redacts paths in bodies. A path descends into arrays; `**.name` matches every member of that name, at any depth."""

    __slots__ = ("_anywhere", "_leaves", "_tree", "is_empty")

    def __init__(self, paths: list[str]) -> None:
        self._anywhere = frozenset(parse_path(path.removeprefix(_ANYWHERE))[0] for path in paths if path.startswith(_ANYWHERE))
        self._tree = tree([path for path in paths if not path.startswith(_ANYWHERE)])
        names = {parse_path(path)[-1] for path in paths}
        self._leaves = tuple(encode(name) for name in names)
        self.is_empty = not paths

    def apply(self, body: bytes, *, is_json: bool) -> bytes:
        """Return the body with all matching values masked, or unchanged when there are none.

        `is_json`: the caller has verified that it is JSON. Raises UnreadableBody when it is not JSON, or is nested too deeply.
        """
        if not self._leaves or not body:
            return body
        if not is_json:
            try:
                body = validate(prepare(body))
            except InvalidJSON:
                raise UnreadableBody from None
        # A name spelled with escapes could be any name. Without escapes it appears in the body exactly as we encode it.
        if b"\\" not in body and not any(leaf in body for leaf in self._leaves):
            return body
        try:
            masked = self._masked(body, self._tree)
        except RecursionError:
            raise UnreadableBody from None
        return body if masked is None else encode(masked)

    def _masked(self, raw: bytes | Raw, below: Tree) -> Any:
        """Return `raw` with its secrets masked, or None when it contains none."""
        if (fields := members(raw)) is not None:
            changed: dict[str, Any] = {}
            names = fields if self._anywhere else below
            for name in names:
                value = fields.get(name)
                if value is None:
                    continue
                rest = below.get(name)
                if name in self._anywhere or (rest is not None and not rest):
                    changed[name] = _MASK_JSON
                elif (masked := self._masked(value, rest or {})) is not None:
                    changed[name] = masked
            return {**fields, **changed} if changed else None
        if (array := items(raw)) is not None:
            elements = [self._masked(item, below) for item in array]
            if all(element is None for element in elements):
                return None
            return [item if element is None else element for item, element in zip(array, elements, strict=True)]
        return None
