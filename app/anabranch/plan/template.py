"""Compiles JSON templates, JSON whose strings may contain references, to pieces of JSON text with slots between them.

A string that is exactly one reference becomes the JSON of its value, in its exact spelling. Inside a longer string the value becomes text.
"""

from collections.abc import Callable
from typing import Any

from anabranch.errors import MissingReference
from anabranch.jsontext.frame import MISSING, Frame
from anabranch.jsontext.values import write
from anabranch.plan.left_out import LeftOut, NotNeeded
from anabranch.plan.reference import Reference, Template, is_whole, parse
from anabranch.plan.value import as_json, as_long_text

SlotOf = Callable[[Reference], int]
"""The slot of a reference. Assigns a new one for a new reference."""


def nothing(source: str, fault: str = "has no value") -> MissingReference | LeftOut:
    """What to raise when the reference `source` has no value where one is needed."""
    return NotNeeded(source) if source.endswith("?}") else MissingReference(f"{source} {fault}")


def parts_of(template: Template, slot_of: SlotOf) -> list[str | tuple[int, str]]:
    """The literal texts of a template, and the slot of each reference with the reference as text."""
    return [part if isinstance(part, str) else (slot_of(part), str(part)) for part in template]


def render_text(parts: list[str | tuple[int, str]]) -> Callable[[Frame], str]:
    """A function from a frame to the text of a template. It raises MissingReference or NotNeeded when one of the references has no text."""

    def render(frame: Frame) -> str:
        texts = []
        for part in parts:
            if isinstance(part, str):
                texts.append(part)
                continue
            text = as_long_text(frame[part[0]])
            if text is None:
                raise nothing(part[1])
            texts.append(text)
        return "".join(texts)

    return render


def compile_json(node: Any, slot_of: SlotOf, *, is_strict: bool) -> Callable[[Frame], bytes]:
    """A function from a frame to JSON text.

    `is_strict`: the function raises MissingReference or NotNeeded when a reference finds nothing (a call's body); otherwise it writes null (a response).
    Raises TemplateError at compile time for a string that is not a valid template.
    """
    pieces: list[bytes | tuple[int, str] | Callable[[Frame], bytes]] = []
    _walk(node, pieces, slot_of, is_strict=is_strict)
    folded = _fold(pieces)
    if len(folded) == 1 and isinstance(folded[0], bytes):
        constant = folded[0]
        return lambda _frame: constant

    def render(frame: Frame) -> bytes:
        out = []
        for piece in folded:
            if type(piece) is bytes:
                out.append(piece)
            elif type(piece) is tuple:
                value = frame[piece[0]]
                if value is MISSING:
                    if is_strict:
                        raise nothing(piece[1])
                    out.append(b"null")
                else:
                    out.append(as_json(value))
            else:
                out.append(piece(frame))
        return b"".join(out)

    return render


def _walk(node: Any, pieces: list[Any], slot_of: SlotOf, *, is_strict: bool) -> None:
    if isinstance(node, dict):
        pieces.append(b"{")
        for number, (key, value) in enumerate(node.items()):
            pieces.append((b"," if number else b"") + write(str(key)) + b":")
            _walk(value, pieces, slot_of, is_strict=is_strict)
        pieces.append(b"}")
    elif isinstance(node, list):
        pieces.append(b"[")
        for number, value in enumerate(node):
            if number:
                pieces.append(b",")
            _walk(value, pieces, slot_of, is_strict=is_strict)
        pieces.append(b"]")
    elif isinstance(node, str):
        template = parse(node)
        if is_whole(template):
            reference = template[0]
            assert isinstance(reference, Reference)
            pieces.append((slot_of(reference), str(reference)))
        elif any(isinstance(part, Reference) for part in template):
            pieces.append(_long_string(render_text(parts_of(template, slot_of)), is_strict=is_strict))
        else:
            pieces.append(write("".join(str(part) for part in template)))
    else:
        pieces.append(write(node))


def _long_string(text_of: Callable[[Frame], str], *, is_strict: bool) -> Callable[[Frame], bytes]:
    def render(frame: Frame) -> bytes:
        try:
            return write(text_of(frame))
        except MissingReference:
            if is_strict:
                raise
            return b"null"

    return render


def _fold(pieces: list[Any]) -> list[Any]:
    """Join adjacent literals."""
    folded: list[Any] = []
    for piece in pieces:
        if folded and isinstance(piece, bytes) and isinstance(folded[-1], bytes):
            folded[-1] += piece
        else:
            folded.append(piece)
    return folded
