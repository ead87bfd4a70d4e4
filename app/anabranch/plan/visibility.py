"""Finds references to fields that a step's shaping removes, so that they are reported when the document is loaded."""

from anabranch.config import model as config
from anabranch.jsontext import raw
from anabranch.jsontext.path import is_element, path_text


def hidden_reason(step: config.Step, path: tuple[str, ...]) -> str | None:
    """Why a reference to `path` in the step's shaped value never has a value; None when it may have one. Array indexes match any level."""
    if step.wrap is not None and path:
        if path[0] != step.wrap:
            return f"the step wraps its value under `{step.wrap}`"
        path = path[1:]
    if step.each is not None and path:
        if not is_element(path[0]):
            return "the step runs for each element of an array, so its value is an array: write `.0` for its first result, `.*` for all"
        path = path[1:]
    if step.rename is not None:
        reason, path = _unrenamed(raw.rename_tree(step.rename), path)
        if reason is not None:
            return reason
    if step.drop is not None and (dropped := _dropped(raw.tree(step.drop), path)) is not None:
        return f"the step drops `{dropped}`"
    if step.pick is not None and not _is_picked(raw.tree(step.pick), path):
        return f"the step picks only {', '.join(f'`{name}`' for name in step.pick)}"
    return None


def _unrenamed(names: raw.Tree, path: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
    """The path with the old names, or the reason why one of its names does not exist any more."""
    old_path = []
    for at, name in enumerate(path):
        back = {new: old for old, (new, _) in names.items() if new is not None}
        if name in back:
            old = back[name]
        elif name in names and names[name][0] is not None:
            return f"the step renames `{name}` to `{names[name][0]}`", path
        elif name in names or not is_element(name):
            old = name
        else:
            old_path.append(name)
            continue
        old_path.append(old)
        if old not in names:
            return None, (*old_path, *path[at + 1 :])
        names = names[old][1]
    return None, tuple(old_path)


def _dropped(unwanted: raw.Tree, path: tuple[str, ...]) -> str | None:
    walked = []
    for name in path:
        if name not in unwanted:
            if is_element(name):
                continue
            return None
        walked.append(name)
        unwanted = unwanted[name]
        if not unwanted:
            return path_text(tuple(walked))
    return None


def _is_picked(wanted: raw.Tree, path: tuple[str, ...]) -> bool:
    for name in path:
        if not wanted:
            return True
        if name not in wanted:
            if is_element(name):
                continue
            return False
        wanted = wanted[name]
    return True
