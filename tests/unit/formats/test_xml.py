"""XML becomes JSON and back by one convention, and hostile documents are refused."""

import re
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from orjson import dumps, loads

from anabranch.errors import InvalidCharset, InvalidFormat
from anabranch.formats import xml

NAMES = st.from_regex(r"\A[a-z][a-z0-9.-]{0,5}(:[a-z]{1,3})?\Z").filter(lambda name: not name.lower().startswith("xml"))
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), max_size=8).map(
    lambda text: text.strip(" \t\r\n")
)
FILLED = TEXTS.filter(bool)


def _with_attributes(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    elements = st.dictionaries(NAMES, st.one_of(children, st.lists(children, min_size=2, max_size=3)), max_size=3)
    attributes = st.dictionaries(NAMES.map("@{}".format), TEXTS, max_size=2)
    text: st.SearchStrategy[dict[str, str]] = st.one_of(st.just({}), FILLED.map(lambda text: {"#text": text}))
    return (
        st.tuples(attributes, elements, text)
        .map(lambda parts: {**parts[0], **parts[1], **parts[2]})
        .filter(lambda fields: set(fields) - {"#text"})
    )


VALUES = st.recursive(TEXTS, _with_attributes, max_leaves=8)


def read(body: bytes | str, *arrays: str, content_type: str = "") -> Any:
    return loads(xml.reader(arrays)(body.encode() if isinstance(body, str) else body, content_type))


@settings(max_examples=50)
@given(NAMES, VALUES)
def test_what_is_written_is_read_as_it_was(name: str, value: Any) -> None:
    # Namespaces are not looked at, so a prefix needs no declaration.
    document = {name: value}
    assert read(xml.write(dumps(document))) == document


@given(st.binary(max_size=60))
def test_bytes_are_read_or_refused(body: bytes) -> None:
    with suppress(InvalidFormat, InvalidCharset):
        read(body)


def test_attributes_may_stand_behind_elements_and_text() -> None:
    assert xml.write(b'{"a":{"#text":"t","b":1,"@c":2}}').endswith(b'<a c="2">t<b>1</b></a>')


def test_text_between_elements_is_joined() -> None:
    assert read("<x>a <b>c</b> d<!-- e --></x>") == {"x": {"b": "c", "#text": "a  d"}}
    assert read("<x><![CDATA[<p>]]> &amp; <![CDATA[]]></x>") == {"x": "<p> &"}


def test_numbers_keep_their_spelling_and_null_is_empty() -> None:
    written = xml.write(b'{"a":{"@n":1.50,"b":[12345678901234567890123,true,null],"#text":1e2}}')
    assert written.endswith(b'<a n="1.50"><b>12345678901234567890123</b><b>true</b><b/>1e2</a>')


@pytest.mark.parametrize(
    "value",
    ["[]", "1", "{}", '{"a":1,"b":2}', '{"a":[1,2]}', '{"a":{"b":[[1]]}}', '{"a b":1}', '{"1":1}', '{"a":{"@b":{}}}', '{"a":{"#text":[1]}}', r'{"a":"\u0000"}',
     '{"a":{"@":1}}', '{"a":{"@x><y":1}}'],
)  # fmt: skip
def test_what_no_document_can_say_is_not_written(value: str) -> None:
    with pytest.raises(ValueError):
        xml.write(value.encode())


def test_a_value_is_not_written_deeper_than_it_is_read() -> None:
    deep = b'{"a":' * xml.MAX_DEPTH + b"1" + b"}" * xml.MAX_DEPTH
    assert read(xml.write(deep)) == loads(deep.replace(b"1", b'"1"'))
    with pytest.raises(ValueError):
        xml.write(b'{"a":' + deep + b"}")


def test_forced_arrays_are_arrays_wherever_their_parent_is() -> None:
    paths = ("a.b", "a.b.c", "a.d.e")
    assert read("<a/>", *paths) == {"a": {"b": []}}
    assert read("<a><b/></a>", *paths) == {"a": {"b": [{"c": []}]}}
    assert read("<a><b>t</b><d/></a>", *paths) == {"a": {"b": [{"c": [], "#text": "t"}], "d": {"e": []}}}
    assert read("<x/>", "x") == {"x": [""]}


def test_a_quoted_path_names_an_element_with_a_dot() -> None:
    assert read("<a><b.c/></a>", 'a."b.c"') == {"a": {"b.c": [""]}}


LAUGHS = "<!DOCTYPE a [<!ENTITY a0 'ha'>" + "".join(f"<!ENTITY a{n + 1} '{f'&a{n};' * 10}'>" for n in range(9)) + "]><a>&a9;</a>"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (LAUGHS, "document type"),
        ("<!DOCTYPE a [<!ENTITY % p SYSTEM 'http://127.0.0.1/x'>%p;]><a/>", "document type"),
        ("<!DOCTYPE a SYSTEM 'http://127.0.0.1/x.dtd'><a b='&x;'/>", "entity"),
        ("<a>" * 100_000, "more than 200 levels"),
        ("<a>\0</a>", "token"),
        ("<!-- <!DOCTYPE b> -->\n<!DOCTYPE a PUBLIC 'p'\n'http://127.0.0.1/x.dtd'>\n<a>&nbsp;</a>", "undefined entity at line 4, column 4"),
        ("<a>&#0;</a>", "character"),
        ("<a>&#xD800;</a>", "character"),
        ("<a b='1' b='2'/>", "duplicate"),
        ("<a></b>", "mismatched"),
        ("{}", "token"),
        ("  \n", "empty"),
        ("<html><br></html>", "mismatched"),
    ],
)
def test_hostile_and_broken_documents_are_refused_with_a_reason(body: str, reason: str) -> None:
    with pytest.raises(InvalidFormat) as caught:
        read(body)
    assert reason in caught.value.detail
    assert not re.search(r"127\.0|'ha|&a", caught.value.detail)


def test_a_huge_attribute_and_many_attributes_are_read() -> None:
    assert len(read(f"<a b='{'x' * 1_000_000}'/>")["a"]["@b"]) == 1_000_000
    attributes = " ".join(f"b{number}=''" for number in range(5000))
    assert len(read(f"<a {attributes}/>")["a"]) == 5000


@pytest.mark.parametrize(
    "body", [b"<a>\xff</a>", b"<a>\xed\xa0\x80</a>", b"\xff\xfe<\0a\0>\0\x00\xd8", b"<?xml version='1.0' encoding='klingon'?><a/>"]
)
def test_bytes_that_are_no_characters_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidCharset):
        read(body)


def test_the_charset_of_the_content_type_wins_over_the_declaration_but_not_over_the_mark() -> None:
    body = "<?xml version='1.0' encoding='koi8-r'?><a>\u00e9</a>"
    assert read(body.encode("latin-1"), content_type="text/xml; charset=latin1") == {"a": "\u00e9"}
    assert read(b"\xef\xbb\xbf" + body.encode(), content_type="text/xml; charset=latin1") == {"a": "\u00e9"}
    assert read("<?xml version='1.0' encoding='koi8-r'?><a>\u0434</a>".encode("koi8-r")) == {"a": "\u0434"}
    assert read("\n <?xml version='1.0' encoding='koi8-r'?><a>\u0434</a>".encode("koi8-r")) == {"a": "\u0434"}
    assert read("<?xml version='1.0' encoding='utf-16'?><a>\u0434</a>".encode("utf-16-le")) == {"a": "\u0434"}
