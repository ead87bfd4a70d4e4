"""Selectors find the parts of a page. What takes too long is noticed."""

import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from orjson import loads

from anabranch.config.model import Document
from anabranch.config.problems import Problems
from anabranch.errors import InvalidFormat, MissingExtraError
from anabranch.formats.html import NotQuickError, Selection, SelectorError, check_selector, is_large, reader
from anabranch.plan.compile import compile_document

HTML = "text/html; charset=utf-8"


def take(page: str | bytes, content_type: str = HTML, **select: Selection) -> Any:
    return loads(reader(select)(page.encode() if isinstance(page, str) else page, content_type))


def text(page: str, css: str = "body") -> Any:
    return take(page, x=Selection(css=css))["x"]


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("<p>  a \n\t b\u00a0c </p>", "a b c"),
        ("H<sub>2</sub>O and <b>b</b><i>c</i>", "H2O and bc"),
        ("a<br>b", "a b"),
        ("<p>a<p>b<div>c</div>d", "a b c d"),
        ("<ul><li>a<li>b</ul>c", "a b c"),
        ("<table><tr><td>1<td>2<tr><td>3</table>", "1 2 3"),
        ("a<script>x</script><style>y</style><template>z</template>b<!-- c -->", "ab"),
        ("a<img alt=x>b", "a b"),
        ("<textarea>a\nb</textarea>", "a b"),
        ("&lt;b&gt; &amp; &eacute;&nbsp;&#x1F600;", "<b> & \u00e9 \U0001f600"),
        ("<b></b>", ""),
        ("a\0b", "ab"),
        ("&#xD800;&#0;&#x110000;", "\ufffd\ufffd\ufffd"),
    ],
)
def test_text_is_what_a_reader_sees(page: str, expected: str) -> None:
    assert text(f"<body>{page}") == expected


def test_a_script_that_is_selected_has_its_text() -> None:
    assert text('<script type="application/ld+json">{"a": 1}</script>', "script") == '{"a": 1}'


def test_a_selector_inside_a_match_does_not_find_the_match_itself() -> None:
    page = "<div id=a><div id=b><p>x</p></div></div>"
    inner = {"inner": Selection(css="div", attr="id")}
    assert take(page, x=Selection(css="div", is_many=True, select=inner)) == {"x": [{"inner": "b"}, {"inner": None}]}
    assert take(page, x=Selection(css="#b", select={"p": Selection(css="div p")})) == {"x": {"p": "x"}}


def test_attributes_are_as_they_are_written() -> None:
    page = "<a HREF=' /x?a=1&amp;b '>1</a><input disabled><a>2</a>"
    assert take(page, x=Selection(css="a", attr="href", is_many=True)) == {"x": [" /x?a=1&b ", None]}
    assert take(page, x=Selection(css="input", attr="disabled")) == {"x": ""}


def test_absolute_addresses() -> None:
    page = "<a href='?p=2'>1</a><a href='http://[x'>2</a><a href='mailto:a@b'>3</a>"
    found = take(page, x=Selection(css="a", attr="href", is_many=True, base="https://x.example/list/a"))["x"]
    assert found == ["https://x.example/list/a?p=2", "http://[x", "mailto:a@b"]


@pytest.mark.parametrize("css", ["", "a,", "::before", "h1::text", "p:contains('x')", "> b", "a[", "!", "div >"])
def test_what_is_no_selector_is_refused(css: str) -> None:
    with pytest.raises(SelectorError):
        check_selector(css)


@pytest.mark.parametrize(
    "css",
    [
        "h1",
        "a[href^='/']",
        "li:nth-child(2n+1)",
        "div:not(.x) > p ~ p",
        "p:has(b)",
        ":is(h1, h2)",
        "span[itemprop='example",
        "a, b",
        "#a.b",
    ],
)
def test_selectors_are_those_of_css(css: str) -> None:
    check_selector(css)


@pytest.mark.parametrize(
    ("body", "kind"), [(b"", HTML), (b" \n", ""), (b'{"a":"<b>"}', "application/json"), (b"plain", HTML), (b"a <b>", "text/plain")]
)
def test_what_is_no_page_is_refused(body: bytes, kind: str) -> None:
    with pytest.raises(InvalidFormat):
        take(body, kind, x=Selection(css="b"))


def test_the_charset_of_a_page() -> None:
    b = Selection(css="b")
    assert take("<b>\u00e9".encode("latin-1"), "text/html; charset=latin1", x=b) == {"x": "\u00e9"}
    assert take("<meta http-equiv=x content='text/html; charset=koi8-r'><b>\u0434".encode("koi8-r"), "text/html", x=b) == {"x": "\u0434"}
    assert take("<meta charset=utf-16><b>\u0434".encode(), "text/html", x=b) == {"x": "\u0434"}
    assert take(b"<meta charset=klingon><b>\xe9</b>", "text/html", x=b) == {"x": "\ufffd"}


def test_what_may_take_long_is_large() -> None:
    assert not is_large(b"<p>a</p>" * 900)
    for body in (b"<div>" * 1100, b"</p><div>" * 1100, b"x" * 65536, b"<a " + b"b " * 3000 + b">"):
        assert is_large(body)


def test_selections_of_each_other_are_given_up() -> None:
    inside = Selection(css="div", is_many=True, select={"x": Selection(css="div", is_many=True)})
    page = b"<div>" * 600
    with pytest.raises(NotQuickError):
        reader({"x": inside}, 0.005)(page, HTML)


@settings(max_examples=40)
@given(st.text(max_size=80).map(lambda page: f"<{page}"))
def test_any_text_is_read(page: str) -> None:
    body = page.encode(errors="replace")
    assert set(take(body, x=Selection(css="*", is_many=True), y=Selection(css="p", attr="x"))) == {"x", "y"}


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "selectolax.lexbor", None)
    with pytest.raises(MissingExtraError, match=r"decode: html needs the extra 'html': pip install 'anabranch\[html\]'"):
        reader({"x": Selection(css="b")})
    document = {
        "version": 1,
        "upstreams": {"a": {"url": "http://127.0.0.1:1"}},
        "endpoints": [{"path": "/x", "steps": {"a": {"upstream": "a", "path": "/", "decode": "html", "select": {"x": "b"}}}}],
    }
    problems = Problems()
    compile_document(Document.model_validate(document), problems)
    (problem,) = problems.errors
    assert (problem.path, "anabranch[html]" in problem.message) == ("endpoints[0].steps.a.decode", True)
