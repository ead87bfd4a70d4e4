"""Finds references into values that their JSON Schema says they cannot have, so that they are reported when the document is loaded.

Only what a schema rules out counts: a member that it does not mention may still be there.
"""

from typing import Any, Final

from anabranch.jsontext.path import ANY, Path, is_element, path_text

_MOST_STEPS: Final = 200
"""References between schemas that are followed for one path: they may be circular."""
_SCALARS: Final = {"string": "a string", "integer": "a number", "number": "a number", "boolean": "true or false", "null": "null"}


def impossible_reason(schema: Any, root: str, path: Path) -> str | None:
    """Why no value that fits `schema` has anything at `path`; None when one may have. `root`: what messages call the value."""
    return _reason(schema, schema, (root,), path, _MOST_STEPS)


def _reason(schema: Any, whole: Any, walked: Path, path: Path, steps_left: int) -> str | None:
    if not path or not isinstance(schema, dict) or steps_left <= 0:
        return None
    if (target := schema.get("$ref")) is not None:
        return _reason(part_of(whole, target), whole, walked, path, steps_left - 1)
    for keyword in ("anyOf", "oneOf"):
        if isinstance(options := schema.get(keyword), list):
            others = [option for option in options if option != {"type": "null"}]
            reasons = [_reason(option, whole, walked, path, steps_left - 1) for option in others]
            if reasons and all(reasons):
                return reasons[0]
    kinds = schema.get("type")
    kinds = {kinds} if isinstance(kinds, str) else {kind for kind in kinds if isinstance(kind, str)} if isinstance(kinds, list) else set()
    kinds -= {"null"} if len(kinds) > 1 else set()
    name, rest = path[0], path[1:]
    if kinds == {"array"}:
        if not is_element(name):
            return f"`{path_text(walked)}` is an array, which has elements and no member `{name}`: write `.0` for its first one"
        first = schema.get("prefixItems")
        if isinstance(first, list):
            element = None if name == ANY else first[int(name)] if int(name) < len(first) else schema.get("items")
        else:
            element = schema.get("items")
        return _reason(element, whole, (*walked, name), rest, steps_left - 1)
    if kinds and kinds <= _SCALARS.keys():
        return f"`{path_text(walked)}` is {_SCALARS[min(kinds)]}, which has no members"
    if kinds == {"object"} and name == ANY:
        return f"`{path_text(walked)}` is an object, and `*` stands for the elements of an array"
    if kinds == {"object"}:
        members = schema.get("properties")
        if isinstance(members, dict) and name in members:
            return _reason(members[name], whole, (*walked, name), rest, steps_left - 1)
        if schema.get("additionalProperties") is False and "patternProperties" not in schema:
            return f"`{path_text(walked)}` has no member `{name}`"
    return None


def part_of(whole: Any, target: Any) -> Any:
    """What a reference inside a schema names; None when that is not a part of it."""
    if not isinstance(target, str) or not target.startswith("#"):
        return None
    found = whole
    for part in target[1:].split("/")[1:]:
        if not isinstance(found, dict):
            return None
        found = found.get(part.replace("~1", "/").replace("~0", "~"))
    return found
