"""What never reaches the journal: header values, query values and parts of bodies, compiled once from the document's `redact`.

Bodies are taken apart only along the paths that are redacted; everything else keeps its spelling. Runs before the queue: what is queued is
clean. Knows nothing of records.
"""

from typing import Any, Final
from urllib.parse import unquote_plus

from msgspec import Raw

from anabranch.config.journal import Redact
from anabranch.errors import InvalidJSON
from anabranch.jsontext.raw import Tree, encode, items, members, prepare, tree, validate

MASK: Final = "***"
_MASK_JSON: Final = Raw(b'"***"')
_ANYWHERE: Final = "**."


class UnreadableBody(ValueError):
    """Parts of the body may have to be redacted, but it is no JSON that they could be found in: it must not be kept."""


class Redaction:
    """The document's rules. `for_step(name)` gives those for the bodies that the step of that name exchanges."""

    __slots__ = ("_headers", "_query", "_rules", "body")

    def __init__(self, rules: Redact) -> None:
        self._rules = rules
        self._headers = frozenset(name.lower() for name in rules.headers)
        self._query = frozenset(name.lower() for name in rules.query)
        self.body = BodyRedaction(rules.paths)

    def for_step(self, name: str) -> "BodyRedaction":
        """A response in which steps stand under their names has the path `payment.card.number`; the answer that it comes from has
        `card.number`. So a step's bodies are redacted at the paths as they stand, and at those that begin with its name, without it."""
        own = [path.removeprefix(f"{name}.") for path in self._rules.paths if path.startswith(f"{name}.")]
        return BodyRedaction([*self._rules.paths, *own]) if own else self.body

    def header(self, name: str, value: str) -> str:
        """`name`: in lower case."""
        return MASK if name in self._headers else value

    def is_secret_parameter(self, name: str) -> bool:
        return name.lower() in self._query

    def query(self, query: str) -> str:
        """A query string (without `?`), the values of secret parameters replaced."""
        if not query or not self._query or not self._may_hold_secret(query):
            return query
        pairs = []
        for pair in query.split("&"):
            name, separator, _ = pair.partition("=")
            is_secret = separator and self.is_secret_parameter(unquote_plus(name))
            pairs.append(f"{name}={MASK}" if is_secret else pair)
        return "&".join(pairs)

    def target(self, target: str) -> str:
        """A request target: path and query."""
        path, separator, query = target.partition("?")
        return f"{path}?{self.query(query)}" if separator else target

    def _may_hold_secret(self, query: str) -> bool:
        """A cheap look: most queries have neither a secret's name nor anything encoded that could be one."""
        if "%" in query or "+" in query:
            return True
        folded = query.lower()
        return any(name in folded for name in self._query)


class BodyRedaction:
    """Paths in bodies. A path goes into arrays; `**.name` means every member of that name, however deep."""

    __slots__ = ("_anywhere", "_leaves", "_tree", "is_empty")

    def __init__(self, paths: list[str]) -> None:
        self._anywhere = frozenset(path.removeprefix(_ANYWHERE) for path in paths if path.startswith(_ANYWHERE))
        self._tree = tree([path for path in paths if not path.startswith(_ANYWHERE)])
        names = {path.rpartition(".")[2] for path in paths}
        self._leaves = tuple(encode(name) for name in names)
        self.is_empty = not paths

    def apply(self, body: bytes, *, is_json: bool) -> bytes:
        """The body without what must not be kept; itself when there is nothing of it in it.

        `is_json`: it has been proven to be. Raises UnreadableBody for what is no JSON.
        """
        if not self._leaves or not body:
            return body
        if not is_json:
            try:
                body = validate(prepare(body))
            except InvalidJSON:
                raise UnreadableBody from None
        # A name that is spelled with escapes can be any name; without them it stands there as we would write it.
        if b"\\" not in body and not any(leaf in body for leaf in self._leaves):
            return body
        try:
            masked = self._masked(body, self._tree)
        except RecursionError:
            raise UnreadableBody from None
        return body if masked is None else encode(masked)

    def _masked(self, raw: bytes | Raw, below: Tree) -> Any:
        """`raw` with its secrets replaced, or None when there is none in it."""
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
