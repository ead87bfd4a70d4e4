"""multipart/form-data: an object whose values are texts, numbers, booleans, or files of the client's body.

A file keeps its name and content type. An array repeats the name, null is left out, and an object becomes a part of the type application/json. The
boundary is a digest of the parts: they cannot contain it, and the same parts always give the same body.

**Source:** RFC 7578 sections 4.1 to 4.4; HTML Living Standard, "multipart/form-data encoding algorithm" (escapes in names); OpenAPI 3.1 section 4.8.15
(objects as JSON).
"""

from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2b
from typing import Any, Final

import msgspec

from anabranch.core.exchange import BodySource
from anabranch.core.upload import Upload, body_of
from anabranch.errors import UnencodableBody
from anabranch.jsontext.frame import MISSING, Frame
from anabranch.jsontext.raw import NULL, items, members
from anabranch.plan.encode.shapes import object_of, reference_of
from anabranch.plan.reference import ITEM, Reference
from anabranch.plan.template import SlotOf, compile_json
from anabranch.plan.value import as_text

Encoded = tuple[bytes | BodySource, bytes]
"""A body and its content type."""
Files = Mapping[str, list[Upload | bytes]]
_Values = Callable[[Frame, Files], Iterator[Upload | bytes]]

_ESCAPES: Final = str.maketrans({'"': "%22", "\r": "%0D", "\n": "%0A"})
_NO_FILES: Final[Files] = {}
_ITEM: Final = Reference(ITEM, ())


def report(node: Any, problem: Callable[..., None]) -> None:
    """Report a template that is never an object."""
    object_of(node, problem, "a multipart body")


def compile_multipart(node: Any, slot_of: SlotOf, files_slot: int | None, items: Reference | None = None) -> Callable[[Frame], Encoded]:
    """A function from a frame to the body. `files_slot`: of `plan.body.FILES`; None when the client's body has no files. `items`: what the step runs for
    each element of; None: it runs once.

    The function raises MissingReference, NotNeeded and UnencodableBody.
    """
    if isinstance(node, dict):
        fields = [(name, _values(value, slot_of, items)) for name, value in node.items()]

        def parts(frame: Frame, files: Files) -> Iterator[tuple[str, Upload | bytes]]:
            for name, values in fields:
                for value in values(frame, files):
                    yield name, value
    else:
        reference = reference_of(node)
        is_body = reference is not None and reference.root == "body" and not reference.path
        render = compile_json(node, slot_of, is_strict=True)

        def parts(frame: Frame, files: Files) -> Iterator[tuple[str, Upload | bytes]]:
            fields = members(render(frame))
            if fields is None:
                raise UnencodableBody("the body of the call is not an object, and a multipart body is made of one")
            for name, raw in fields.items():
                for value in files[name] if is_body and name in files else _several(raw):
                    yield name, value

    def encode(frame: Frame) -> Encoded:
        files = _NO_FILES if files_slot is None or frame[files_slot] is MISSING else frame[files_slot]
        return _written(list(parts(frame, files)))

    return encode


def _values(node: Any, slot_of: SlotOf, items: Reference | None) -> _Values:
    """What one field of a template is made of: files where it is a reference to them, else JSON texts."""
    if isinstance(node, list):
        each = [_values(item, slot_of, items) for item in node]

        def several(frame: Frame, files: Files) -> Iterator[Upload | bytes]:
            for values in each:
                yield from values(frame, files)

        return several
    render = compile_json(node, slot_of, is_strict=True)
    reference = reference_of(node)
    if reference == _ITEM and items is not None:

        def item(frame: Frame, files: Files) -> Iterator[Upload | bytes]:
            value = bytes(render(frame))
            # Files that are described alike have the same bytes.
            file = next((file for file in _files_at(items, files) or () if isinstance(file, Upload) and file.describe() == value), None)
            return _several(value) if file is None else iter((file,))

        return item

    def values(frame: Frame, files: Files) -> Iterator[Upload | bytes]:
        found = None if reference is None else _files_at(reference, files)
        return _several(render(frame)) if found is None else iter(found)

    return values


def _files_at(reference: Reference, files: Files) -> list[Upload | bytes] | None:
    """What the client sent at `{body.name}` or `{body.name.0}`; None when that has no files."""
    if reference.root != "body" or reference.meta or len(reference.path) not in (1, 2):
        return None
    found = files.get(reference.path[0])
    if found is None or len(reference.path) == 1:
        return found
    index = reference.path[1]
    return [found[int(index)]] if index.isdecimal() and int(index) < len(found) else None


def _several(raw: bytes | msgspec.Raw) -> Iterator[bytes]:
    array = items(raw)
    return map(bytes, [raw] if array is None else array)


def _written(parts: list[tuple[str, Upload | bytes]]) -> Encoded:
    heads: list[tuple[bytes, Upload | bytes]] = []
    digest = blake2b(digest_size=20)
    for name, value in parts:
        if value == NULL:
            continue
        head = f'Content-Disposition: form-data; name="{name.translate(_ESCAPES)}"'
        content: Upload | bytes
        if isinstance(value, Upload):
            content = value
            head += f'; filename="{value.filename.translate(_ESCAPES)}"\r\nContent-Type: {value.content_type}'
        elif (text := as_text(value)) is not None:
            content = text.encode()
        else:
            content = value
            head += "\r\nContent-Type: application/json"
        heads.append((head.encode(), content))
        digest.update(b"%d:%b%b," % (len(head), head.encode(), content.sha256.encode() if isinstance(content, Upload) else content))
    boundary = b"anabranch-" + digest.hexdigest().encode()
    pieces: list[bytes | Upload] = []
    for encoded, content in heads:
        pieces += [b"--%b\r\n%b\r\n\r\n" % (boundary, encoded), content, b"\r\n"]
    pieces.append(b"--%b--\r\n" % boundary)
    return body_of(pieces), b"multipart/form-data; boundary=" + boundary
