"""JSON text taken apart one level at a time: objects to their members, arrays to their elements, everything below left as it is spelled.

This is what keeps `1.0`, `1e2` and twenty-digit integers exactly as an upstream wrote them, and what makes a rule cost only the levels it
touches. All functions take JSON that has been proven valid (`validate`).
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw

from anabranch.errors import InvalidJSON
from anabranch.jsontext.frame import MISSING, Missing
from anabranch.jsontext.proof import BOM, decode_raw

_decode_object: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_array: Final = msgspec.json.Decoder(list[Raw]).decode
encode: Final = msgspec.json.encode

NULL: Final = b"null"
WHITESPACE: Final = b" \t\r\n"


def prepare(body: bytes) -> bytes:
    """What every body goes through first: an empty one is null, a byte order mark goes (RFC 8259 section 8.1), UTF-8 is proven.

    msgspec does not look at the bytes inside strings that it passes over, so the check is here. Raises InvalidJSON.
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


def invalid(error: Exception) -> InvalidJSON:
    """What a decoder's error means for the outcome. Decoder messages hold positions, never content."""
    reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    return InvalidJSON(f"the body is not JSON: {reason}", may_be_processed=True)


def validate(body: bytes) -> bytes:
    """Prove that `body` is JSON and return it without the white space around it. Nothing is built. Raises InvalidJSON."""
    try:
        decode_raw(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise invalid(error) from None
    return body.strip(WHITESPACE)


def members(raw: bytes | Raw) -> dict[str, Raw] | None:
    """The members of an object, values untouched; None when it is none. A repeated name: the last one counts."""
    try:
        return _decode_object(raw)
    except msgspec.ValidationError:
        return None


def items(raw: bytes | Raw) -> list[Raw] | None:
    """The elements of an array, untouched; None when it is none."""
    try:
        return _decode_array(raw)
    except msgspec.ValidationError:
        return None


def get(raw: bytes | Raw, path: tuple[str, ...]) -> bytes | Missing:
    """JSON text at `path`: names go into objects, whole numbers into arrays. MISSING when there is nothing."""
    for name in path:
        found: Raw | None = None
        if (fields := members(raw)) is not None:
            found = fields.get(name)
        elif name.isdecimal() and (array := items(raw)) is not None and int(name) < len(array):
            found = array[int(name)]
        if found is None:
            return MISSING
        raw = found
    return bytes(raw)


Tree = dict[str, Any]
"""Paths that share their beginnings: `{"orders": {"sku": LEAF, "id": LEAF}}`. A leaf is an empty dict."""


def tree(paths: "list[str]") -> Tree:
    """Make a tree of dotted paths, in their order. A path that goes on below another is swallowed by the shorter one."""
    root: Tree = {}
    for path in sorted(paths, key=lambda path: path.count(".")):
        node = root
        *above, last = path.split(".")
        for name in above:
            if name in node and not node[name]:
                break
            node = node.setdefault(name, {})
        else:
            node[last] = {}
    return _in_order(root, paths)


def _in_order(root: Tree, paths: "list[str]") -> Tree:
    """The same tree with the names in the order in which the document first has them."""
    ordered: Tree = {}
    for path in paths:
        source, target = root, ordered
        for name in path.split("."):
            if name not in source:
                break
            source, target = source[name], target.setdefault(name, {})
    return ordered


def pick(raw: bytes | Raw, wanted: Tree) -> Any:
    """Only the wanted paths. Arrays: of each element. What is neither object nor array has no paths: null."""
    if not wanted:
        return raw if isinstance(raw, Raw) else Raw(raw)
    if (fields := members(raw)) is not None:
        return {name: pick(fields[name], below) for name, below in wanted.items() if name in fields}
    if (array := items(raw)) is not None:
        return [pick(item, wanted) for item in array]
    return None


def drop(raw: bytes | Raw, unwanted: Tree) -> Any:
    """All but the unwanted paths, in the order they came."""
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
    """New names for members, at their places; all at once, so that two names can be swapped. A renamed member wins over one that has the
    name already. `names`: a tree whose node is `(new name or None, tree below)`."""
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
    """Make the tree that `rename` takes of `{dotted old path: new name}`."""
    root: Tree = {}
    for path, new in names.items():
        node = root
        *above, last = path.split(".")
        for name in above:
            node = node.setdefault(name, (None, {}))[1]
        node[last] = (new, node[last][1] if last in node else {})
    return root
