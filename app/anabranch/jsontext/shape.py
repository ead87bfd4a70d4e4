"""Turns the body of an answer into a step's shaped value, and fills the slots of the references to it.

`Shape` holds the shaping rules of one step. `choose_mode` decides how much of a body must be decoded, and `compile_reader` builds the function
that does it. All modes give the same value and differ only in cost.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from anabranch.errors import ShapeError
from anabranch.jsontext import raw
from anabranch.jsontext.frame import Frame
from anabranch.jsontext.project import extractor, is_extractable, is_projectable, picker

Slots = list[tuple[tuple[str, ...], int]]
"""References into a value: (path, slot); the empty path is the whole value."""


class DecodeMode(StrEnum):
    """How much of an answer must be decoded."""

    SPLICE = "splice"
    """The body is copied into the response: validated as UTF-8 JSON, never decoded to objects."""
    PROJECT = "project"
    """Some fields are read: decoded to a struct whose leaves stay JSON text."""
    FULL = "full"
    """Decoded level by level, because the rules need more than fixed fields."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Shaping rules of a step, applied in the order of the fields. Empty or None: no such rule.

    `must_be_object`: the shaped value is merged by its keys (`flat`, `deep`), so any value but an object or null fails.
    """

    target: tuple[str, ...] = ()
    pick: raw.Tree | None = None
    drop: raw.Tree | None = None
    rename: raw.Tree | None = None
    wrap: str | None = None
    must_be_object: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether the value is the unchanged body."""
        return not self.target and self.pick is None and self.drop is None and self.rename is None and self.wrap is None


def choose_mode(shape: Shape, slots: Slots) -> DecodeMode:
    """The cheapest mode that gives the right value.

    Dropping or renaming members and merging by keys need the levels around the members: full. Picked, targeted or referenced fields can be
    projected. Anything else is copied unchanged: splice.
    """
    fields = [(path, slot) for path, slot in slots if path]
    if shape.drop is not None or shape.rename is not None or shape.must_be_object:
        return DecodeMode.FULL
    if shape.pick is not None:
        return DecodeMode.PROJECT if is_projectable(shape.pick) else DecodeMode.FULL
    if shape.target:
        return DecodeMode.PROJECT if is_extractable([(shape.target, 0)]) else DecodeMode.FULL
    if fields:
        return DecodeMode.PROJECT if is_extractable(fields) else DecodeMode.FULL
    return DecodeMode.SPLICE


def compile_reader(shape: Shape, slots: Slots, mode: DecodeMode | None = None) -> Callable[[bytes, Frame], bytes]:
    """A function that takes a body, fills the slots of a frame and returns the shaped value as JSON text.

    `mode`: None chooses it. FULL is possible for every shape (the tests compare the other modes with it).
    The function raises InvalidJSON and ShapeError. Cost: one pass over the body, and one over the shaped value when it has slots.
    """
    mode = mode or choose_mode(shape, slots)
    is_full = mode is DecodeMode.FULL
    whole = [slot for path, slot in slots if not path]
    fields = [(path, slot) for path, slot in slots if path]
    reshape = _reshaper(shape, is_full=is_full)
    fill = _filler(fields, is_full=is_full) if fields else None
    must_be_object = shape.must_be_object
    prepare = raw.prepare

    def read(body: bytes, frame: Frame) -> bytes:
        body = prepare(body)
        try:
            if reshape is not None:
                value = reshape(body)
                if fill is not None:
                    fill(value, frame)
            elif fill is not None and fill(body, frame):
                value = body.strip(raw.WHITESPACE)  # extracting the fields has validated the body
            else:
                value = raw.validate(body)
        except (msgspec.DecodeError, RecursionError) as error:
            raise raw.invalid(body, error) from None
        for slot in whole:
            frame[slot] = value
        if must_be_object and value[:1] != b"{" and value != b"null":
            raise ShapeError("the answer is not an object; use `wrap` to put it under a key", may_be_processed=True)
        return value

    return read


def compile_filler(slots: Slots) -> Callable[[bytes, Frame], None]:
    """A function that fills the slots of a frame from JSON text that is known to be valid."""
    whole = [slot for path, slot in slots if not path]
    fields = [(path, slot) for path, slot in slots if path]
    fill_fields = _filler(fields, is_full=False) if fields else None

    def fill(value: bytes, frame: Frame) -> None:
        for slot in whole:
            frame[slot] = value
        if fill_fields is not None:
            fill_fields(value, frame)

    return fill


def _filler(fields: Slots, *, is_full: bool) -> Callable[[bytes, Frame], bool]:
    """A function that fills slots from a body and returns whether that has validated the body as JSON."""

    def generic(body: bytes, frame: Frame) -> bool:
        value = raw.validate(body)
        for path, slot in fields:
            frame[slot] = raw.get(value, path)
        return True

    if is_full or not is_extractable(fields):
        return generic
    extract = extractor(fields)

    def projected(body: bytes, frame: Frame) -> bool:
        try:
            extract(body, frame)
        except msgspec.ValidationError:
            return generic(body, frame)
        return True

    return projected


def _reshaper(shape: Shape, *, is_full: bool) -> Callable[[bytes], bytes] | None:
    """A function from a body to the shaped value, which validates the body as JSON; None when the shape is plain."""
    if shape.is_plain:
        return None
    project = _projected_pick(shape) if not is_full else None
    wrap = b"{%b:" % raw.encode(shape.wrap) if shape.wrap is not None else None

    def generic(body: bytes) -> bytes:
        value = raw.validate(body)
        if shape.target:
            found = raw.get(value, shape.target)
            value = found if isinstance(found, bytes) else raw.NULL
        if shape.pick is not None:
            value = raw.encode(raw.pick(value, shape.pick))
        if shape.drop is not None:
            value = raw.encode(raw.drop(value, shape.drop))
        if shape.rename is not None:
            value = raw.encode(raw.rename(value, shape.rename))
        return value

    def reshape(body: bytes) -> bytes:
        value = None
        if project is not None:
            try:
                value = project(body)
            except msgspec.ValidationError:
                value = None
        if value is None:
            value = generic(body)
        return wrap + value + b"}" if wrap is not None else value

    return reshape


def _projected_pick(shape: Shape) -> Callable[[bytes], bytes] | None:
    """The fast path for `target` and `pick`; None when another rule needs the levels between."""
    if shape.drop is not None or shape.rename is not None:
        return None
    if shape.target:
        if not is_extractable([(shape.target, 0)]):
            return None
        extract = extractor([(shape.target, 0)])
        below = picker(shape.pick) if shape.pick is not None and is_projectable(shape.pick) else None
        if shape.pick is not None and below is None:
            return None

        def target(body: bytes) -> bytes:
            frame: Frame = [b""]
            extract(body, frame)
            value: bytes = frame[0] or raw.NULL
            return below(value) if below is not None else value

        return target
    return picker(shape.pick) if shape.pick is not None and is_projectable(shape.pick) else None
