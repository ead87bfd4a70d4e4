"""The compiled route table: finds the route of a request's path. Generic over what a route serves.

A path is looked up segment by segment, so the cost depends on its depth and not on the number of endpoints. A path that matches a route
without parameters costs one dictionary look-up.
"""

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar
from urllib.parse import quote

from anabranch.core.percent import decode
from anabranch.plan.routes import Segment, keep_reserved, split_path

T = TypeVar("T")
Values = tuple[str | None, ...]


class Leaf(Generic[T]):
    """The routes of one path. `methods`: what is served, by method; GET also serves HEAD. `allow`: value of the Allow header."""

    __slots__ = ("allow", "methods")

    def __init__(self) -> None:
        self.methods: dict[str, T] = {}
        self.allow = b""

    def add(self, method: str, served: T) -> None:
        self.methods[method] = served
        if method == "GET":
            self.methods.setdefault("HEAD", served)
        self.allow = ", ".join(sorted({*self.methods, "OPTIONS"})).encode()


class _Patterns(Generic[T]):
    """The segments with text around parameters that may follow a node.

    They are sought by their first and last text, for each pair of lengths that such texts have: the cost depends on the number of different
    lengths, not on the number of patterns.
    """

    __slots__ = ("_groups",)

    def __init__(self) -> None:
        self._groups: dict[tuple[int, int, int], dict[tuple[str, str], list[tuple[Segment, _Node[T]]]]] = {}

    def node(self, segment: Segment) -> "_Node[T]":
        """The node behind a pattern."""
        first, last = segment.literals[0], segment.literals[-1]
        key = (segment.length, len(first), len(last))
        if key not in self._groups:
            self._groups = dict(sorted({**self._groups, key: {}}.items(), reverse=True))
        entries = self._groups[key].setdefault((first, last), [])
        for known, node in entries:
            if known.shape == segment.shape:
                return node
        entries.append((segment, _Node()))
        return entries[-1][1]

    def find(self, text: str) -> "Iterator[tuple[tuple[str, ...], _Node[T]]]":
        """The values and the node of each pattern that `text` matches, the longest first."""
        for (_, first, last), group in self._groups.items():
            for segment, node in group.get((text[:first], text[len(text) - last :]), ()):
                values = segment.split(text)
                if values is not None:
                    yield values, node


class _Node(Generic[T]):
    """A node of the trie: what may follow. `static`: segments by text. `rest`: the routes that take all remaining segments."""

    __slots__ = ("leaf", "parameter", "patterns", "rest", "static")

    def __init__(self) -> None:
        self.static: dict[str, _Node[T]] = {}
        self.patterns: _Patterns[T] | None = None
        self.parameter: _Node[T] | None = None
        self.rest: Leaf[T] | None = None
        self.leaf: Leaf[T] | None = None


class RouteTable(Generic[T]):
    """Finds the leaf of a path.

    `routes`: (method, path, what is served), the path as `anabranch.plan.routes` reads it. Two routes with the same method and shape are
    ambiguous: the compiler rejects them, and here the later one would win. `reserved`: first segments of the gateway's own pages, which
    `/{anything}` does not match.

    The path is matched first, then the method. If `/a/b` and `/a/{x}` both exist, `/a/b` always matches the first, and a method that only
    the second has is not allowed there. From left to right and with backtracking, static segments take precedence over parameters with text
    around them, of which the longest text comes first, these over whole segments, and these over `{rest...}`.
    """

    __slots__ = ("_reserved", "_root", "_static", "served")

    def __init__(self, routes: Iterable[tuple[str, str, T]] = (), reserved: Iterable[str] = ()) -> None:
        self._reserved = frozenset(reserved)
        self._static: dict[bytes, Leaf[T]] = {}
        self._root: _Node[T] = _Node()
        self.served: list[T] = []
        """What is served at all routes, in order."""
        for method, path, served in routes:
            self._add(method, path, served)

    def _add(self, method: str, path: str, served: T) -> None:
        self.served.append(served)
        node = self._root
        segments = split_path(path)
        for segment in segments:
            if segment.is_rest:
                if node.rest is None:
                    node.rest = Leaf()
                node.rest.add(method, served)
                return
            if segment.is_static:
                node = node.static.setdefault(segment.literals[0], _Node())
            elif segment.is_mixed:
                if node.patterns is None:
                    node.patterns = _Patterns()
                node = node.patterns.node(segment)
            else:
                if node.parameter is None:
                    node.parameter = _Node()
                node = node.parameter
        if node.leaf is None:
            node.leaf = Leaf()
        node.leaf.add(method, served)
        if all(segment.is_static for segment in segments):
            self._static[path.encode()] = node.leaf

    def match(self, raw_path: bytes) -> tuple[Leaf[T], Values] | None:
        """The leaf at `raw_path` (percent-encoded, without the query) and its parameter values, in segment order; None if no route matches.

        The path is split before decoding, so `%2F` does not separate segments. A value that is not UTF-8 is None, which the parameter's
        reader reports as a fault. An empty segment and the dot segments `.` and `..` never match a parameter. The value of `{rest...}` keeps
        its encoding; it may have empty segments behind the first one.
        """
        leaf = self._static.get(raw_path)
        if leaf is not None:
            return leaf, ()
        text = raw_path.decode("latin-1")
        is_plain = "%" not in text and text.isascii()
        raw = text.split("/")
        segments: list[str | None] = [*raw] if is_plain else [decode(segment) for segment in raw]
        if segments[0] != "" or len(segments) < 2 or segments[1] in self._reserved:
            return None
        return _find(self._root, segments, raw, 1, ())


def _find(node: _Node[T], segments: list[str | None], raw: list[str], index: int, values: Values) -> tuple[Leaf[T], Values] | None:
    if index == len(segments):
        return None if node.leaf is None else (node.leaf, values)
    segment = segments[index]
    if segment is not None:
        child = node.static.get(segment)
        if child is not None:
            found = _find(child, segments, raw, index + 1, values)
            if found is not None:
                return found
        if node.patterns is not None:
            text = segment if "%" not in raw[index] else decode(keep_reserved(raw[index]))
            assert text is not None  # it decodes what `segment` decodes
            for inner, child in node.patterns.find(text):
                found = _find(child, segments, raw, index + 1, (*values, *inner))
                if found is not None:
                    return found
    if segment in ("", ".", ".."):
        return None
    if node.parameter is not None:
        found = _find(node.parameter, segments, raw, index + 1, (*values, segment))
        if found is not None:
            return found
    if node.rest is None or "." in segments[index:] or ".." in segments[index:]:
        return None
    return node.rest, (*values, None if None in segments[index:] else _encoded("/".join(raw[index:])))


def _encoded(text: str) -> str:
    """A part of a path as the client encoded it, and what the client left unencoded outside of ASCII encoded."""
    return text if text.isascii() else "".join(char if char.isascii() else quote(char.encode("latin-1")) for char in text)
