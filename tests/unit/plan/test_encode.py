"""The formats of calls, each read back by another reader."""

import json
from typing import Any
from urllib.parse import parse_qsl
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch.core.upload import StreamedBody, Upload
from anabranch.errors import UnencodableBody
from anabranch.plan.encode import form, text, xml
from anabranch.plan.encode.multipart import compile_multipart
from anabranch.plan.reference import Reference
from anabranch.testing.specs.forms import multipart_faults

TEXT = st.text(max_size=8)
XML_TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc", "Cn", "Co")) | st.sampled_from("\t\n\r<>&\"'"), max_size=8)
# expat knows the names of an older edition, which has fewer letters.
KEY = st.text(st.characters(max_codepoint=0x12F), max_size=4)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEY, inner, max_size=3),
    max_leaves=8,
)
XML_NAME = st.sampled_from(["a", "b", "_c", "d-e.f", "ü"])


@st.composite
def elements(draw: st.DrawFn, depth: int = 3) -> Any:
    if depth == 0 or draw(st.booleans()):
        return draw(XML_TEXT | st.integers() | st.booleans())
    node: dict[str, Any] = {f"@{name}": draw(XML_TEXT) for name in draw(st.sets(XML_NAME, max_size=2))}
    if draw(st.booleans()):
        node["#text"] = draw(XML_TEXT)
    for name in draw(st.lists(XML_NAME, unique=True, max_size=3)):
        several = draw(st.booleans())
        node[name] = [draw(elements(depth=depth - 1)) for _ in range(2)] if several else draw(elements(depth=depth - 1))
    return node


def shown(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool | int) else value


def check(element: ET.Element, value: Any) -> None:
    if not isinstance(value, dict):
        assert (element.text or "") == shown(value)
        return
    assert element.attrib == {name[1:]: shown(text) for name, text in value.items() if name.startswith("@")}
    texts = "".join([element.text or "", *(child.tail or "" for child in element)])
    assert texts == value.get("#text", "")
    expected = [
        (name, item)
        for name, below in value.items()
        if not name.startswith("@") and name != "#text"
        for item in (below if isinstance(below, list) else [below])
    ]
    assert [child.tag for child in element] == [name for name, _ in expected]
    for child, (_, item) in zip(element, expected, strict=True):
        check(child, item)


@given(elements())
@settings(max_examples=40, deadline=None)
def test_xml_reads_back_as_it_was_written(value: Any) -> None:
    written = xml.encode(json.dumps({"root": value}).encode())
    check(ET.fromstring(written), value)


@given(JSON)
@settings(max_examples=40, deadline=None)
def test_any_value_is_well_formed_xml_or_a_failure(value: Any) -> None:
    try:
        written = xml.encode(json.dumps(value).encode())
    except UnencodableBody:
        return
    ET.fromstring(written.replace(b":", b"-"))  # prefixes are the document's own


@given(st.dictionaries(TEXT, TEXT | st.lists(TEXT | st.none(), max_size=3) | st.none()))
@settings(max_examples=40, deadline=None)
def test_a_form_reads_back_as_it_was_written(fields: dict[str, Any]) -> None:
    written = form.encode(json.dumps(fields).encode())
    expected = [
        (name, item) for name, value in fields.items() for item in (value if isinstance(value, list) else [value]) if item is not None
    ]
    assert parse_qsl(written.decode(), keep_blank_values=True) == expected


@pytest.mark.parametrize(("value", "expected"), [("ü", "ü"), (1, "1"), (True, "true"), ("", "")])
def test_a_text(value: Any, expected: str) -> None:
    assert text.encode(json.dumps(value).encode()).decode() == expected


class Memory:
    """A store in memory that says that it is on disk."""

    is_spooled = True

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, start: int, size: int) -> bytes:
        return self.data[start : start + size]


def test_a_streamed_body_is_the_same_in_pieces_of_any_size() -> None:
    store = Memory(b"0123456789abcdef")
    one, other = (Upload("f", "text/plain", size, "0" * 64, start, store) for start, size in ((0, 10), (10, 6)))
    encode = compile_multipart({"a": "{body.f}", "b": "x"}, lambda _: 0, 1)
    body, media_type = encode([b"unused", {"f": [one, b'"text"', other]}])
    assert isinstance(body, StreamedBody)
    whole = body.read(0, len(body))
    assert len(whole) == len(body)
    for size in (1, 7, 100, 1000):
        assert b"".join(body.read(start, size) for start in range(0, len(body), size)) == whole
    faults = multipart_faults({"a": ["?", "text", "?"], "b": "x"}, whole, media_type.decode())
    assert [fault for fault in faults if "content of b" in fault or "parts" in fault] == []
    assert b"0123456789" in whole
    assert body.read(len(body), 10) == b""


def test_the_same_parts_have_the_same_boundary_and_other_parts_another() -> None:
    def media_type(value: str) -> bytes:
        return compile_multipart("{x}", slot, None)([json.dumps({"a": value}).encode()])[1]

    def slot(reference: Reference) -> int:
        return 0

    assert media_type("x") == media_type("x")
    assert media_type("x") != media_type("y")
