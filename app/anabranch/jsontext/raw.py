"""Decodes JSON text one level at a time: objects to their members, arrays to their elements. Everything below keeps its spelling.

This keeps `1.0`, `1e2` and twenty-digit integers exactly as an upstream wrote them, and a rule costs only the levels that it touches. All
functions but `prepare` and `validate` take JSON that is known to be valid.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw

from anabranch.errors import InvalidJSON
from anabranch.jsontext.frame import MISSING, Missing
from anabranch.jsontext.path import ANY, Path, parse_path
from anabranch.jsontext.proof import BOM, decode_raw, fault_of

_decode_object: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_array: Final = msgspec.json.Decoder(list[Raw]).decode
encode: Final = msgspec.json.encode

NULL: Final = b"null"
WHITESPACE: Final = b" \t\r\n"


def prepare(body: bytes) -> bytes:
    """Prepare a body for decoding: an empty body becomes null, a byte order mark is removed (RFC 8259 section 8.1), UTF-8 is validated.

    UTF-8 is validated here because msgspec does not check the strings that it skips. Raises InvalidJSON.
    """
    if not body:
        return NULL
    if body.startswith(BOM):
        body = body[3:]
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise InvalidJSON(f"the body is not UTF-8 at byte {error.start}", may_be_processed=True) from None
    return body


def invalid(body: bytes, error: Exception) -> InvalidJSON:
    """The InvalidJSON for a body that a decoder refused with `error`."""
    return InvalidJSON(f"the body is not JSON: {fault_of(body, error)}", may_be_processed=True)


def validate(body: bytes) -> bytes:
    """Check that `body` is JSON and return it without the white space around it. Builds no objects. Raises InvalidJSON."""
    try:
        decode_raw(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise invalid(body, error) from None
    return body.strip(WHITESPACE)


def members(raw: bytes | Raw) -> dict[str, Raw] | None:
    """The members of an object, values as raw JSON; None when `raw` is not an object. Of a repeated name the last one counts."""
    try:
        return _decode_object(raw)
    except msgspec.ValidationError:
        return None


def items(raw: bytes | Raw) -> list[Raw] | None:
    """The elements of an array, as raw JSON; None when `raw` is not an array."""
    try:
        return _decode_array(raw)
    except msgspec.ValidationError:
        return None


def get(raw: bytes | Raw, path: tuple[str, ...]) -> bytes | Missing:
    """The JSON text at `path`: names select members, whole numbers elements of arrays, `ANY` all of them, as one array of what is there. MISSING
    when there is nothing."""
    for depth, name in enumerate(path):
        if name == ANY:
            return every(raw, path[depth + 1 :])
        found: Raw | None = None
        if (fields := members(raw)) is not None:
            found = fields.get(name)
        elif name.isdecimal() and (array := items(raw)) is not None and int(name) < len(array):
            found = array[int(name)]
        if found is None:
            return MISSING
        raw = found
    return bytes(raw)


def every(raw: bytes | Raw, path: tuple[str, ...]) -> bytes | Missing:
    """One array of what is at `path` in each element of an array, in order. An element that has nothing there adds nothing; what a further
    `ANY` finds is not nested. MISSING when `raw` is not an array."""
    found: list[bytes | Raw] = []
    return b"[" + b",".join(map(bytes, found)) + b"]" if _collect(raw, path, found) else MISSING


def _collect(raw: bytes | Raw, path: tuple[str, ...], found: list[bytes | Raw]) -> bool:
    """Append what is at `path` in each element of an array. Returns whether `raw` is one."""
    array = items(raw)
    if array is None:
        return False
    if not path:
        found += array
        return True
    deeper = path.index(ANY) if ANY in path else len(path)
    for element in array:
        value = get(element, path[:deeper])
        if isinstance(value, bytes):
            if deeper < len(path):
                _collect(value, path[deeper + 1 :], found)
            else:
                found.append(value)
    return True


Tree = dict[str, Any]
"""Paths that share their beginnings: `{"orders": {"sku": LEAF, "id": LEAF}}`. A leaf is an empty dict."""


def tree(texts: "list[str]") -> Tree:
    """A tree of paths as texts (`parse_path`), in their order."""
    return tree_of([parse_path(text) for text in texts])


def tree_of(paths: "list[Path]") -> Tree:
    """A tree of paths, in their order. A path below another path is dropped, because the shorter one includes it. No path is empty."""
    root: Tree = {}
    for path in sorted(paths, key=len):
        node = root
        *above, last = path
        for name in above:
            if name in node and not node[name]:
                break
            node = node.setdefault(name, {})
        else:
            node[last] = {}
    return _in_order(root, paths)


def _in_order(root: Tree, paths: "list[Path]") -> Tree:
    """The same tree with the names in the order in which `paths` first has them."""
    ordered: Tree = {}
    for path in paths:
        source, target = root, ordered
        for name in path:
            if name not in source:
                break
            source, target = source[name], target.setdefault(name, {})
    return ordered


def pick(raw: bytes | Raw, wanted: Tree) -> Any:
    """Keep only the wanted paths, in an array of each element. A value that is neither object nor array becomes null."""
    if not wanted:
        return raw if isinstance(raw, Raw) else Raw(raw)
    if (fields := members(raw)) is not None:
        return {name: pick(fields[name], below) for name, below in wanted.items() if name in fields}
    if (array := items(raw)) is not None:
        return [pick(item, wanted) for item in array]
    return None


def drop(raw: bytes | Raw, unwanted: Tree) -> Any:
    """Remove the unwanted paths, in an array from each element. The order of the rest is kept."""
    if (fields := members(raw)) is not None:
        kept: dict[str, Any] = {}
        for name, value in fields.items():
            below = unwanted.get(name)
            if below is None:
                kept[name] = value
            elif below:
                kept[name] = drop(value, below)
        return kept
    if (array := items(raw)) is not None:
        return [drop(item, unwanted) for item in array]
    return raw if isinstance(raw, Raw) else Raw(raw)


def rename(raw: bytes | Raw, names: Tree) -> Any:
    """Rename members without moving them. All renames apply at once, so two names can be swapped. A renamed member replaces one that already
    has the new name. `names`: a tree whose nodes are `(new name or None, tree below)`."""
    if (fields := members(raw)) is not None:
        result: dict[str, Any] = {}
        taken = {new for old, (new, _) in names.items() if new is not None and old in fields}
        for name, value in fields.items():
            new, below = names.get(name, (None, None))
            if new is None and name in taken:
                continue
            result[new or name] = rename(value, below) if below else value
        return result
    if (array := items(raw)) is not None:
        return [rename(item, names) for item in array]
    return raw if isinstance(raw, Raw) else Raw(raw)


def rename_tree(names: Mapping[str, str]) -> Tree:
    """The tree for `rename` from `{old path: new name}`, both as `parse_path` reads them."""
    root: Tree = {}
    for old, name_text in names.items():
        node = root
        *above, last = parse_path(old)
        (new,) = parse_path(name_text)
        for name in above:
            node = node.setdefault(name, (None, {}))[1]
        node[last] = (new, node[last][1] if last in node else {})
    return root
