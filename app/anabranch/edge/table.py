"""The compiled route table: finds the route of a request's path. Generic over what a route serves.

A path is looked up segment by segment, so the cost depends on its depth and not on the number of endpoints. A path that matches a route
without parameters costs one dictionary look-up.
"""

from collections.abc import Iterable
from typing import Generic, TypeVar

from anabranch.edge.percent import decode

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


class _Node(Generic[T]):
    """A node of the trie: the static segments that may follow, by text, and the parameter that may follow."""

    __slots__ = ("leaf", "parameter", "static")

    def __init__(self) -> None:
        self.static: dict[str, _Node[T]] = {}
        self.parameter: _Node[T] | None = None
        self.leaf: Leaf[T] | None = None


class RouteTable(Generic[T]):
    """Finds the leaf of a path.

    `routes`: (method, path, what is served); a segment `{name}` of a path is a parameter. Two routes with the same method and shape are
    ambiguous: the compiler rejects them, and here the later one would win. `reserved`: first segments of the gateway's own pages, which
    `/{anything}` does not match.

    The path is matched first, then the method. If `/a/b` and `/a/{x}` both exist, `/a/b` always matches the first, and a method that only
    the second has is not allowed there. Static segments take precedence over parameters, from left to right, with backtracking.
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
        is_static = True
        for segment in path.split("/")[1:]:
            if segment.startswith("{") and segment.endswith("}"):
                is_static = False
                if node.parameter is None:
                    node.parameter = _Node()
                node = node.parameter
            else:
                text = decode(segment.encode().decode("latin-1"))
                node = node.static.setdefault(segment if text is None else text, _Node())
        if node.leaf is None:
            node.leaf = Leaf()
        node.leaf.add(method, served)
        if is_static:
            self._static[path.encode()] = node.leaf

    def match(self, raw_path: bytes) -> tuple[Leaf[T], Values] | None:
        """The leaf at `raw_path` (percent-encoded, without the query) and its parameter values, in segment order; None if no route matches.

        The path is split before decoding, so `%2F` does not separate segments. A value that is not UTF-8 is None, which the parameter's
        reader reports as a fault. An empty segment and the dot segments `.` and `..` never match a parameter.
        """
        leaf = self._static.get(raw_path)
        if leaf is not None:
            return leaf, ()
        text = raw_path.decode("latin-1")
        is_plain = "%" not in text and text.isascii()
        segments: list[str | None] = [*text.split("/")] if is_plain else [decode(segment) for segment in text.split("/")]
        if segments[0] != "" or len(segments) < 2 or segments[1] in self._reserved:
            return None
        return _find(self._root, segments, 1, ())


def _find(node: _Node[T], segments: list[str | None], index: int, values: Values) -> tuple[Leaf[T], Values] | None:
    if index == len(segments):
        return None if node.leaf is None else (node.leaf, values)
    segment = segments[index]
    if segment is not None:
        child = node.static.get(segment)
        if child is not None:
            found = _find(child, segments, index + 1, values)
            if found is not None:
                return found
    if node.parameter is None or segment in ("", ".", ".."):
        return None
    return _find(node.parameter, segments, index + 1, (*values, segment))
