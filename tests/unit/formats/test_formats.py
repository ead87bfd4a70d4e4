"""Text, lines, forms and bytes become JSON without loss, and in a worker process as in this one."""

import json
from base64 import b64decode
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from orjson import loads

from anabranch.errors import InvalidCharset, InvalidFormat, InvalidJSON, UpstreamError
from anabranch.formats import form, ndjson, octets, text
from anabranch.formats.charset import codec_of
from anabranch.formats.html import Selection
from anabranch.formats.order import carry_out, order_of, pack, settle
from anabranch.formats.rules import FORMATS, NotQuickError, Rules
from anabranch.jsontext.proof import prove

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(TEXTS)
def test_text_is_the_same_text(value: str) -> None:
    assert loads(text.read(value.encode("utf-8-sig"), "text/plain")) == value
    assert loads(text.read(b"\xfe\xff" + value.encode("utf-16-be"), "text/plain; charset=latin1")) == value
    assert loads(text.read(value.encode("gb18030"), "text/plain; Charset=GB18030")) == value


@given(st.binary(max_size=40))
def test_bytes_are_the_same_bytes(value: bytes) -> None:
    assert b64decode(loads(octets.read(value, ""))) == value


@pytest.mark.parametrize(
    ("label", "codec"),
    [("UTF8", "utf-8"), ("us-ascii", "cp1252"), ("ISO-8859-1", "cp1252"), ("latin1", "cp1252"), ("gb2312", "gbk"), ("ks_c_5601-1987", "cp949"),
     ("zlib", None), ("hex", None), ("unicode_escape", None), ("idna", None), ("utf-7", None), ("x" * 1000, None), ("a\0b", None), ("", None)],
)  # fmt: skip
def test_labels_are_those_of_the_web(label: str, codec: str | None) -> None:
    assert codec_of(label) == codec


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=6))
def test_a_form_has_every_value_of_every_name(fields: list[tuple[str, str]]) -> None:
    expected: dict[str, Any] = {}
    for name, value in fields:
        expected.setdefault(name, []).append(value)
    assert loads(form.read(urlencode(fields).encode(), "")) == {
        name: each[0] if len(each) == 1 else each for name, each in expected.items()
    }


@pytest.mark.parametrize("body", [b'{"a":1}', b"a=1 b=2", b"<p>", b'"', b"a=\0", b"a=1\nb=2"])
def test_what_is_no_form_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidFormat):
        form.read(body, "")


def test_forms_are_lenient_as_services_write_them() -> None:
    assert loads(form.read(b"a=1&&b=%zz&c=a/b:c@d&\r\n", "")) == {"a": "1", "b": "%zz", "c": "a/b:c@d"}
    assert loads(form.read(b"a=%E9", "application/x-www-form-urlencoded; charset=latin1")) == {"a": "\u00e9"}
    with pytest.raises(InvalidCharset):
        form.read(b"a=%ff", "")


@given(
    st.lists(
        st.recursive(st.none() | st.booleans() | st.integers() | TEXTS, lambda inner: st.lists(inner, max_size=3), max_leaves=5), max_size=5
    )
)
def test_lines_are_their_values(values: list[Any]) -> None:
    body = "\r\n".join(json.dumps(value) for value in values) + "\n\n"
    assert json.loads(ndjson.read(body.encode(), "")) == values


@pytest.mark.parametrize(
    ("body", "line"), [(b"1\n2 3\n", 2), (b"{}\n\n\n{", 4), (b"[1,\n2]", 1), (b"1\n" + b"[" * 100_000, 2), (b'1\n"\\ud800"', 2)]
)
def test_a_bad_line_is_named(body: bytes, line: int) -> None:
    with pytest.raises(InvalidJSON, match=f"^line {line} is not JSON: "):
        ndjson.read(body, "")


@pytest.mark.parametrize(
    ("rules", "body"),
    [
        (Rules(format="text"), b"caf\xe9"),
        (Rules(format="ndjson"), b"1\n2\n"),
        (Rules(format="ndjson"), b"1\n}\n"),
        (Rules(format="form"), b"a=1&a=2"),
        (Rules(format="xml", arrays=["a.b"]), b"<a><b>1</b></a>"),
        (Rules(format="xml"), b"<a>"),
        (Rules(format="html", select={"x": Selection(css="b", is_many=True, select={"y": Selection(css=":scope")})}), b"<b>1</b>"),
        (Rules(format="bytes"), b"\n\0\xff"),
    ],
)
def test_a_worker_reads_what_this_process_reads(rules: Rules, body: bytes) -> None:
    for content_type in ("", "text/html; charset=latin1"):
        outcomes = []
        for read in (FORMATS[rules.format].compile(rules), lambda body, kind: settle(carry_out(order_of(rules), pack(body, kind)))):
            try:
                outcomes.append(read(body, content_type))
            except UpstreamError as error:
                outcomes.append((error.code, error.detail, error.may_be_processed))  # type: ignore[arg-type]
        assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("name", FORMATS)
def test_no_format_reads_a_large_body_quickly(name: str) -> None:
    rules = Rules(format=name, select={"a": Selection(css="a")} if name == "html" else {})
    with pytest.raises(NotQuickError):
        FORMATS[name].quick(rules)(b"<a>&\n" * 400_000, "")


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(FORMATS)),
    st.binary(max_size=60),
    st.sampled_from(["", "text/html", "text/plain; charset=utf-16", "x; charset=cp932"]),
)
def test_whatever_comes_out_is_json(name: str, body: bytes, content_type: str) -> None:
    rules = Rules(format=name, select={"a": Selection(css="*", is_many=True)} if name == "html" else {})
    with suppress(UpstreamError):
        prove(FORMATS[name].compile(rules)(body, content_type))
