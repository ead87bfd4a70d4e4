"""Serialises read and merge work for a worker process, and defines the body sizes from which that pays.

msgspec and orjson hold the GIL while they work, so a thread does not help: JSON that would block the event loop for too long is read in
another process. An order is a text that names the rules; the worker compiles and caches them. `anabranch.compute.offload` transports orders
and bytes. Must not know processes or the event loop.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from typing import Any, Final

import msgspec

from anabranch.errors import InvalidJSON, ShapeError, StepError
from anabranch.jsontext import merge
from anabranch.jsontext.frame import MISSING, Frame
from anabranch.jsontext.join import Join, join
from anabranch.jsontext.raw import Tree
from anabranch.jsontext.shape import DecodeMode, Shape, Slots, compile_reader

PLAIN_FROM: Final = 4 * 1024 * 1024
PICK_FROM: Final = 2 * 1024 * 1024
REBUILD_FROM: Final = 256 * 1024
MERGE_FROM: Final = 1024 * 1024
"""Sizes in bytes from which the work blocks the loop for about 5 ms: validate and splice, pick and target, drop and rename, and merge by keys.
Measured by `python -m bench.offload`; docs/decisions/0008-json-off-the-loop.md gives the reasons."""

_NEVER: Final = 1 << 62
_MAX_ORDER: Final = 32 * 1024

# A reply is the shaped value itself, or it begins with one of these marks, which no JSON text begins with.
_SAME: Final = b"="  # the value is the body as it was sent; followed by the slots
_WITH_SLOTS: Final = b"#"  # followed by the length of the slots, the slots, the value
_FAULT: Final = b"!"  # followed by the error's code and detail
_SIZE: Final = Struct("<Q")

_FAULTS: Final[dict[str, type[StepError]]] = {error.code: error for error in (InvalidJSON, ShapeError)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a worker process reads a step's body. `order`: for `carry_out`. `from_bytes`: smaller bodies are read in this process.
    `whole`: slots that hold the whole value."""

    order: str
    from_bytes: int
    whole: tuple[int, ...]


class _Order(msgspec.Struct, frozen=True, omit_defaults=True):
    """`slots`: of fields only, because the reply is the whole value. `merge`: group, flat, deep or deep_concat; empty otherwise. `names`: of the
    values, for group. `pick`: what is kept of the merged value; None: everything. `join`: of two lists; None otherwise."""

    shape: Shape | None = None
    slots: list[tuple[tuple[str, ...], int]] = []
    mode: str = ""
    merge: str = ""
    names: list[str] = []
    pick: Tree | None = None
    join: Join | None = None


def reading(shape: Shape, slots: Slots, mode: DecodeMode) -> Reading:
    """How a worker process reads a step's body, and from which size."""
    fields = [(path, slot) for path, slot in slots if path]
    order = msgspec.json.encode(_Order(shape=shape, slots=fields, mode=mode.value)).decode()
    if len(order) > _MAX_ORDER:
        return Reading(order="", from_bytes=_NEVER, whole=())
    if shape.drop is not None or shape.rename is not None:
        from_bytes = REBUILD_FROM
    elif shape.pick is not None or shape.target:
        from_bytes = PICK_FROM
    else:
        from_bytes = PLAIN_FROM
    return Reading(order=order, from_bytes=from_bytes, whole=tuple(slot for path, slot in slots if not path))


def merging(kind: str, names: Sequence[str] = (), pick: Tree | None = None) -> str:
    """The order for a merge: group (of values with these `names`), flat, deep or deep_concat. `pick`: what is kept of it; None: everything."""
    return msgspec.json.encode(_Order(merge=kind, names=list(names), pick=pick)).decode()


def joining(rule: Join) -> str:
    """The order for a join. The payload is both lists, packed."""
    return msgspec.json.encode(_Order(join=rule)).decode()


def settle_reading(reading: Reading, body: bytes, reply: bytes, frame: Frame) -> bytes:
    """Decode a worker's reply: fill the frame's slots and return the shaped value. Raises InvalidJSON or ShapeError."""
    mark = reply[:1]
    value = reply
    if mark == _SAME:
        value = body
        _fill(frame, memoryview(reply)[1:])
    elif mark == _WITH_SLOTS:
        (size,) = _SIZE.unpack_from(reply, 1)
        end = 1 + _SIZE.size + size
        _fill(frame, memoryview(reply)[1 + _SIZE.size : end])
        value = reply[end:]
    elif mark == _FAULT:
        code, detail = msgspec.json.decode(reply[1:], type=tuple[str, str])
        raise _FAULTS[code](detail, may_be_processed=True)
    for slot in reading.whole:
        frame[slot] = value
    return value


def pack_values(values: list[bytes]) -> bytes:
    """The values of a merge as one payload. Copies them, without the GIL if they are large."""
    sizes = msgspec.msgpack.encode([len(value) for value in values])
    return b"".join((_SIZE.pack(len(sizes)), sizes, *values))


def _unpack_values(payload: bytes) -> list[bytes]:
    (size,) = _SIZE.unpack_from(payload)
    sizes: list[int] = msgspec.msgpack.decode(payload[_SIZE.size : _SIZE.size + size])
    values: list[bytes] = []
    offset = _SIZE.size + size
    for length in sizes:
        values.append(payload[offset : offset + length])
        offset += length
    return values


def carry_out(order: str, payload: bytes) -> bytes:
    """Execute an order, in the worker process."""
    return _worker(order)(payload)


@lru_cache(maxsize=1024)
def _worker(text: str) -> Callable[[bytes], bytes]:
    order = msgspec.json.decode(text, type=_Order)
    if order.merge:
        merged = _merger(order.merge, order.names)
        return merged if order.pick is None else _picked(merged, order.pick)
    if (rule := order.join) is not None:
        return _joiner(rule)
    assert order.shape is not None
    slots = [(path, number) for number, (path, _) in enumerate(order.slots)]
    read = compile_reader(order.shape, slots, DecodeMode(order.mode))
    names = [slot for _, slot in order.slots]

    def work(body: bytes) -> bytes:
        frame: Frame = [MISSING] * len(names)
        try:
            value = read(body, frame)
        except (InvalidJSON, ShapeError) as error:
            return _FAULT + msgspec.json.encode((error.code, error.detail))
        filled = _slots(names, frame)
        if value == body:
            return _SAME + filled
        return b"".join((_WITH_SLOTS, _SIZE.pack(len(filled)), filled, value)) if names else value

    return work


def _slots(names: list[int], frame: Frame) -> bytes:
    return msgspec.msgpack.encode([(slot, value if isinstance(value, bytes) else None) for slot, value in zip(names, frame, strict=True)])


def _fill(frame: Frame, filled: memoryview) -> None:
    for slot, value in msgspec.msgpack.decode(filled, type=list[tuple[int, bytes | None]]):
        frame[slot] = MISSING if value is None else value


def _joiner(rule: Join) -> Callable[[bytes], bytes]:
    def work(payload: bytes) -> bytes:
        left, right = _unpack_values(payload)
        return join(left, right, rule)

    return work


def _picked(work: Callable[[bytes], bytes], wanted: Tree) -> Callable[[bytes], bytes]:
    read = compile_reader(Shape(pick=wanted), [])
    return lambda payload: read(work(payload), [])


def _merger(kind: str, names: list[str]) -> Callable[[bytes], bytes]:
    def work(payload: bytes) -> bytes:
        values = _unpack_values(payload)
        visible = [(index, "") for index in range(len(values))]
        if kind == "group":
            assemble: Any = merge.group(list(enumerate(names)), may_be_absent=True)
        elif kind == "flat":
            assemble = merge.flat(visible)
        elif kind == "concat":
            assemble = merge.concat(visible)
        else:
            assemble = merge.deep(visible, concat_arrays=kind == "deep_concat")
        return assemble(values, [])  # type: ignore[no-any-return]

    return work
