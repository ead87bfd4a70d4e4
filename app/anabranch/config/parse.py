"""Parses YAML 1.2 text into nodes, and reports every mistake with its position.

ruamel.yaml's event parser handles the grammar. This module interprets the events: it implements exactly the core schema (`no` and `on` are
strings, there are no dates), requires string keys, reports duplicate keys, and bounds aliases and nesting.

**Source:** YAML 1.2.2 sections 3.2 and 7.1; merge keys as in the type repository (yaml.org/type/merge).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
)
from ruamel.yaml.reader import ReaderError

from anabranch.config.node import Entry, Located, Mapping, Node, Path, Scalar, Sequence
from anabranch.config.scalar import Value, plain_value

_MAX_DEPTH: Final = 100
_MAX_COPIED: Final = 100_000
_TAG: Final = "tag:yaml.org,2002:"


class Report(Protocol):
    """Receives the mistakes."""

    def __call__(self, where: Located, message: str, *, path: Path = (), hint: str = "") -> None: ...


def parse(text: str, file: str, report: Report) -> Node | None:
    """The one document in `text`. None when there is none or its syntax is broken (only the second is reported).

    `report` receives the mistakes. A mistake that leaves the rest readable does not stop the parser.
    """
    return _Builder(file, report).build(text)


class _ScannerError(Exception):
    """ruamel.yaml's scanner has failed on a text that it should have rejected with a YAMLError."""


class _TooDeepError(Exception):
    """The document is nested so deeply that a recursive walk could exhaust the stack."""

    def __init__(self, where: Located) -> None:
        super().__init__()
        self.where = where


@dataclass(slots=True)
class _Open:
    """A collection that is still open.

    `key`, `is_merge`: of the next value. `merge`: the value of `<<`. `size`, `depth`: of the node with its aliases expanded.
    """

    node: Sequence | Mapping
    anchor: str | None
    key: tuple[str, Located] | None = None
    awaits_value: bool = False
    is_merge: bool = False
    merge: Node | None = None
    size: int = 1
    depth: int = 1


class _Builder:
    """Builds the nodes of one file from its events."""

    def __init__(self, file: str, report: Report) -> None:
        self._file = file
        self._report = report
        self._stack: list[_Open] = []
        # None: the anchor's node is still open, so an alias to it would be infinite.
        self._anchors: dict[str, tuple[Node, int, int] | None] = {}
        self._copied = 0
        self._root: Node | None = None

    def build(self, text: str) -> Node | None:
        documents = 0
        try:
            for event in _events(text):
                if isinstance(event, DocumentStartEvent):
                    documents += 1
                    if documents > 1:
                        where = self._where(event)
                        self._report(where, "a file can hold only one document; a second one begins here", hint="move it to its own file")
                        return self._root
                    self._check_version(event)
                else:
                    self._take(event)
        except _TooDeepError as error:
            self._report(error.where, f"nested more than {_MAX_DEPTH} levels deep")
        except MarkedYAMLError as error:
            self._report(*_explained(error, self._file, text))
        except ReaderError as error:
            before = text[: error.position].splitlines() or [""]
            where = Located(self._file, len(before), len(before[-1]) + 1)
            self._report(
                where,
                f"the character U+{error.character:04X} is not allowed in YAML",
                hint=r'write it in double quotes as an escape such as "\u0001"',
            )
        except _ScannerError:
            where = self._stack[-1].node.where if self._stack else Located(self._file, 1, 1)
            self._report(where, "invalid YAML near here")
        else:
            return self._root
        return None

    def _check_version(self, event: DocumentStartEvent) -> None:
        if event.version is not None and tuple(event.version) != (1, 2):
            self._report(Located(self._file, 1, 1), "only YAML 1.2 is supported", hint="remove the %YAML directive")

    def _take(self, event: Event) -> None:
        if isinstance(event, ScalarEvent):
            self._scalar(event)
        elif isinstance(event, AliasEvent):
            self._alias(event)
        elif isinstance(event, CollectionStartEvent):
            where = self._where(event)
            if len(self._stack) >= _MAX_DEPTH:
                raise _TooDeepError(where)
            is_mapping = isinstance(event, MappingStartEvent)
            self._check_tag(event, "map" if is_mapping else "seq", where)
            if event.anchor is not None:
                self._anchors[event.anchor] = None
            self._stack.append(_Open(Mapping(where) if is_mapping else Sequence(where), event.anchor))
        elif isinstance(event, MappingEndEvent | SequenceEndEvent):
            closed = self._stack.pop()
            if isinstance(closed.node, Mapping):
                self._merge(closed.node, closed.merge)
            if closed.anchor is not None:
                self._anchors[closed.anchor] = (closed.node, closed.size, closed.depth)
            self._add(closed.node, closed.size, closed.depth)

    # ------------------------------------------------------------------------------------------------------------ leaves

    def _scalar(self, event: ScalarEvent) -> None:
        where = self._where(event)
        if event.style == '"' and not event.value.isascii():
            try:
                event.value = _with_pairs_joined(event.value)
            except UnicodeDecodeError:
                self._report(where, "the string has an escape for half of a surrogate pair, which is not a character", path=self._path())
                event.value = ""
        top = self._stack[-1] if self._stack else None
        if top is not None and isinstance(top.node, Mapping) and not top.awaits_value:
            top.key, top.awaits_value = (event.value, where), True
            if event.anchor is not None:
                self._anchors[event.anchor] = (Scalar(where, event.value), 1, 1)
            top.is_merge = event.value == "<<" and event.implicit[0]
            return
        if event.value == "" and event.style is None and top is not None and top.key is not None:
            where = top.key[1]  # the value is empty: point at the key instead of at the next token
        node = Scalar(where, None)
        try:
            node.value = self._value(event, where)
        except ValueError as error:
            node.is_broken = True
            self._report(where, str(error), path=self._path())
        if event.anchor is not None:
            self._anchors[event.anchor] = (node, 1, 1)
        self._add(node, 1, 1)

    def _value(self, event: ScalarEvent, where: Located) -> Value:
        text: str = event.value
        tag = event.tag
        if tag is None:
            return plain_value(text) if event.implicit[0] else text
        if tag in ("!", f"{_TAG}str"):
            return text
        value = plain_value(text)
        kinds: dict[str, tuple[type, ...]] = {"null": (type(None),), "bool": (bool,), "int": (int,), "float": (int, float)}
        kind = tag.removeprefix(_TAG)
        if kind not in kinds:
            raise ValueError(f"the tag `{_tag_text(tag)}` is not supported; remove it")
        if not isinstance(value, kinds[kind]) or (isinstance(value, bool) and kind != "bool"):
            raise ValueError(f"the value does not match its tag `{_tag_text(tag)}`")
        return _as_float(value) if kind == "float" and isinstance(value, int) else value

    def _alias(self, event: AliasEvent) -> None:
        where = self._where(event)
        name: str = event.anchor
        node, size, depth = self._anchors.get(name) or (Scalar(where, None, is_broken=True), 1, 1)
        if name not in self._anchors:
            self._report(where, f"the alias `*{name}` has no anchor `&{name}` above it", path=self._path())
        elif self._anchors[name] is None:
            self._report(where, f"the alias `*{name}` is inside its own anchor", path=self._path())
        elif len(self._stack) + depth > _MAX_DEPTH:
            raise _TooDeepError(where)
        elif self._copied + size > _MAX_COPIED:
            self._report(where, f"the aliases in this file expand to more than {_MAX_COPIED} values", path=self._path())
            node, size, depth = Scalar(where, None, is_broken=True), 1, 1
        else:
            self._copied += size
        top = self._stack[-1] if self._stack else None
        if (
            top is not None
            and isinstance(top.node, Mapping)
            and not top.awaits_value
            and isinstance(node, Scalar)
            and isinstance(node.value, str)
        ):
            top.key, top.awaits_value = (node.value, where), True
        else:
            self._add(node, size, depth)

    # ------------------------------------------------------------------------------------------------------- collections

    def _add(self, node: Node, size: int, depth: int) -> None:
        """Add a finished node to its parent: to the list, under the pending key, or as the root."""
        if not self._stack:
            self._root = node
            return
        top = self._stack[-1]
        top.size += size
        top.depth = max(top.depth, depth + 1)
        if isinstance(top.node, Sequence):
            top.node.items.append(node)
        elif not top.awaits_value:
            self._report(node.where, "a key must be a string", path=self._path())
            top.key, top.awaits_value = None, True
        else:
            key, top.key, top.awaits_value = top.key, None, False
            if key is not None:
                self._enter(top, key, node)

    def _enter(self, top: _Open, key: tuple[str, Located], node: Node) -> None:
        assert isinstance(top.node, Mapping)
        name, where = key
        if top.is_merge and top.merge is None:
            top.merge = node
            return
        if top.is_merge:
            self._report(where, "duplicate key `<<`", path=self._path(), hint="to merge several mappings, give it a list of aliases")
            return
        earlier = top.node.entries.get(name)
        if earlier is None:
            top.node.entries[name] = Entry(where, node)
            return
        at = f"line {earlier.where.line}, column {earlier.where.column}"
        self._report(where, f"duplicate key `{name}`; the first one is at {at}", path=(*self._path(), name))
        # Merge two mappings, so that references to keys of the second one are not reported as unknown.
        if isinstance(earlier.value, Mapping) and isinstance(node, Mapping):
            added = {name: entry for name, entry in node.entries.items() if name not in earlier.value.entries}
            earlier.value = Mapping(earlier.value.where, {**earlier.value.entries, **added})

    def _merge(self, node: Mapping, source: Node | None) -> None:
        """Add the keys of `source`, the value of `<<`, before the mapping's own keys. Own keys win; of several sources the first wins."""
        entries: dict[str, Entry] = {}
        for item in [] if source is None else source.items if isinstance(source, Sequence) else [source]:
            if isinstance(item, Mapping):
                entries = {**entries, **{name: entry for name, entry in item.entries.items() if name not in entries}}
            elif not (isinstance(item, Scalar) and item.is_broken):
                self._report(item.where, "`<<` must be an alias of a mapping, or a list of such aliases", path=self._path())
        if entries:
            node.entries = {**entries, **node.entries}

    # --------------------------------------------------------------------------------------------------------- positions

    def _where(self, event: Event) -> Located:
        return Located(self._file, event.start_mark.line + 1, event.start_mark.column + 1)

    def _path(self) -> Path:
        """The path of the next node."""
        parts: list[str | int] = []
        for open_ in self._stack:
            if isinstance(open_.node, Sequence):
                parts.append(len(open_.node.items))
            elif open_.key is not None:
                parts.append(open_.key[0])
        return tuple(parts)

    def _check_tag(self, event: CollectionStartEvent, kind: str, where: Located) -> None:
        if event.tag not in (None, "!", f"{_TAG}{kind}"):
            self._report(where, f"the tag `{_tag_text(event.tag)}` is not supported; remove it", path=self._path())


def _events(text: str) -> Iterator[Event]:
    """The events of a YAML text. Raises YAMLError, and _ScannerError for some malformed escapes and directives.

    Only the library runs inside the `try`: an error of ours in between must not be taken for one of the document.
    """
    parse_events: Callable[[str], Any] = YAML(typ="safe", pure=True).parse
    events = iter(parse_events(text))
    while True:
        try:
            event = next(events)
        except StopIteration:
            return
        except YAMLError:
            raise
        except Exception as error:
            raise _ScannerError from error
        yield event


def _explained(error: MarkedYAMLError, file: str, text: str) -> tuple[Located, str]:
    mark = error.problem_mark or error.context_mark
    where = Located(file, mark.line + 1, mark.column + 1) if mark is not None else Located(file, 1, 1)
    problem = str(error.problem or error.context or "unexpected end")
    if "\\t" in problem:
        problem += "; indent with spaces, not tabs"
    elif "mapping values" in problem:
        problem += "; put strings that contain `: ` in quotes, and check the indentation"
    elif mark is not None and "${" in "".join(text.splitlines()[mark.line : mark.line + 1]):
        problem += "; put `${...}` in quotes inside braces or brackets"
    context = f" {error.context}" if error.context and error.problem else ""
    return where, f"invalid YAML: {problem}{context}"


def _tag_text(tag: str) -> str:
    return tag.replace(_TAG, "!!")


def _as_float(number: int) -> float:
    try:
        return float(number)
    except OverflowError:
        raise ValueError("the number is too large; if it is text, put it in quotes") from None


def _with_pairs_joined(text: str) -> str:
    """`text` with each pair of surrogates (the JSON escape for one character) joined to that character. Raises UnicodeDecodeError."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
