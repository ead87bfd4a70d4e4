"""Parts of an HTML page, found by CSS selectors, as an object. The only module that knows the library.

What is read is tolerant as browsers are: unclosed elements are closed, bytes that are no character are replaced. The text of an element is what a
reader would see: white space is collapsed, elements that are not part of a line of text separate words, scripts and styles are left out.

**Source:** WHATWG HTML section 13.2 (parsing); Selectors Level 4.
"""

import re
from collections.abc import Callable, Mapping
from math import inf
from time import thread_time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urljoin

import msgspec

from anabranch.errors import InvalidFormat, MissingExtraError
from anabranch.formats.charset import codec_of, read_text
from anabranch.jsontext.raw import encode

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode as Node

ITSELF: Final = ":scope"
"""The selector of the element that a selection is in."""

_FROM_BYTES: Final = 64 * 1024
_MOST_TAGS: Final = 1000
_LONGEST_TAG: Final = 4 * 1024
"""The parser takes the square of the depth of a page and of the attributes of a tag, so these bound how long it takes."""
QUICK_S: Final = 0.005
"""CPU time: a busy machine must not start processes for small pages."""
_PORTION: Final = 64
_MOST_WORK: Final = 16_000_000
"""Of characters and elements that all values of a page together are made of: elements inside each other repeat their text."""

_CHARSET: Final = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([A-Za-z0-9._:-]{1,40})""", re.IGNORECASE)
_INLINE: Final = frozenset(
    {
        "a", "abbr", "acronym", "b", "bdi", "bdo", "big", "cite", "code", "data", "del", "dfn", "em", "font", "i", "ins", "kbd", "label", "mark",
        "nobr", "q", "rb", "rp", "rt", "ruby", "s", "samp", "small", "span", "strike", "strong", "sub", "sup", "time", "tt", "u", "var", "wbr",
        "-comment",
    }
)  # fmt: skip
_UNSEEN: Final = frozenset({"script", "style", "template"})


class Selection(msgspec.Struct, frozen=True, omit_defaults=True):
    """One value of a page. `css`: which elements. `attr`: the value of this attribute instead of the text. `base`: the URL against which the
    attribute is made absolute; "": it is as written. `is_many`: an array of all, instead of the first. `select`: an object for each element."""

    css: str
    attr: str = ""
    base: str = ""
    is_many: bool = False
    select: "dict[str, Selection] | None" = None


class SelectorError(ValueError):
    """A text is not a CSS selector. The message is a sentence for the operator."""


def check_selector(css: str) -> None:
    """Raises SelectorError, and MissingExtraError without the library."""
    parser, fault = _library()
    try:
        parser("<p>").css(css)
    except fault:
        hint = "" if "::" not in css else ": it cannot have a pseudo-element such as `::text`; the text is the value anyway"
        raise SelectorError(f"not a CSS selector{hint}") from None


class NotQuickError(Exception):
    """Reading takes longer than it may."""


def is_large(body: bytes) -> bool:
    return len(body) >= _FROM_BYTES or body.count(b"<") - body.count(b"</") > _MOST_TAGS or max(map(len, body.split(b">"))) > _LONGEST_TAG


def reader(select: Mapping[str, Selection], most_s: float = inf) -> Callable[[bytes, str], bytes]:
    """A function from a page and its content type to JSON text. It raises InvalidFormat and InvalidCharset, and NotQuickError when it has looked for
    the values for `most_s` of CPU time: how long selectors take cannot be told from a page. Raises MissingExtraError."""
    parser, fault = _library()
    value = _object(select)

    def read(body: bytes, content_type: str) -> bytes:
        text = read_text(body, content_type, declared=_declared(body), errors="replace")
        _check(text, content_type)
        try:
            page = parser(text)
        except (fault, ValueError):
            raise InvalidFormat("the page is too large to be read", may_be_processed=True) from None
        root = page.root
        if root is None:
            raise InvalidFormat("the page has no element", may_be_processed=True)
        return encode(value(root, _Page(root, thread_time() + most_s)))

    return read


def _library() -> Any:
    """The parser, and the error that it raises for a bad selector."""
    try:
        from selectolax.lexbor import LexborHTMLParser, SelectolaxError  # noqa: PLC0415 - an extra
    except ImportError:
        raise MissingExtraError("decode: html", "html") from None
    return LexborHTMLParser, SelectolaxError


def _declared(body: bytes) -> str:
    """The label of the charset in the first kilobyte of a page, if it is known; "" for none."""
    found = _CHARSET.search(body[:1024])
    codec = codec_of(found[1].decode()) if found is not None else None
    return "" if codec is None else "utf-8" if codec.startswith("utf-16") else codec


def _check(text: str, content_type: str) -> None:
    """Raise InvalidFormat for what is no page: the parser takes anything for one."""
    media_type = content_type.partition(";")[0].strip().lower()
    if not text.strip():
        raise InvalidFormat("the body is empty, and not HTML", may_be_processed=True)
    if "<" not in text or (media_type not in ("text/html", "application/xhtml+xml") and not text.lstrip().startswith("<")):
        kind = " but declared as JSON" if media_type.endswith(("/json", "+json")) else ""
        raise InvalidFormat(f"the body is not HTML{kind}", may_be_processed=True)


class _Page:
    """What the values of one page share."""

    __slots__ = ("_left", "_root", "_until")

    def __init__(self, root: "Node", until: float) -> None:
        self._root = root
        self._until = until
        self._left = _MOST_WORK

    def spend(self, work: int) -> None:
        """Count `work`, and raise InvalidFormat or NotQuickError when it is too much."""
        self._left -= work
        if thread_time() > self._until:
            raise NotQuickError
        if self._left < 0:
            raise InvalidFormat("what the selectors find is too large: elements inside each other repeat their text", may_be_processed=True)

    def absolute(self, url: str, base: str) -> str:
        """An absolute URL; the page's own `base` element counts (HTML section 4.2.3). What cannot be one is returned as it is."""
        own = self._root.css_first("base[href]")
        try:
            return urljoin(urljoin(base, (own.attributes.get("href") or "") if own is not None else ""), url.strip())
        except ValueError:
            return url


_Value = Callable[["Node", _Page], Any]


def _object(select: Mapping[str, Selection]) -> _Value:
    fields = [(name, _value(selection)) for name, selection in select.items()]
    return lambda node, page: {name: value(node, page) for name, value in fields}


def _value(selection: Selection) -> _Value:
    """A function from an element to the value that is selected in it."""
    css = selection.css
    of_match = _of_match(selection)
    if css == ITSELF:
        return (lambda node, page: [of_match(node, page)]) if selection.is_many else of_match

    def every(node: "Node", page: _Page) -> Any:
        own = node.mem_id
        found = [match for match in node.css(css) if match.mem_id != own or match.tag == "html"]
        page.spend(len(found))
        return [of_match(match, page) for match in found]

    def first(node: "Node", page: _Page) -> Any:
        page.spend(1)
        match = node.css_first(css)
        if match is not None and match.mem_id == node.mem_id and match.tag != "html":
            # The library also looks at the element itself.
            match = next((other for other in node.css(css) if other.mem_id != node.mem_id), None)
        return None if match is None else of_match(match, page)

    return every if selection.is_many else first


def _of_match(selection: Selection) -> _Value:
    if selection.select is not None:
        return _object(selection.select)
    if not selection.attr:
        return _text
    name, base = selection.attr, selection.base

    def attribute(node: "Node", page: _Page) -> str | None:
        attributes = node.attributes
        if name not in attributes:
            return None
        text = attributes[name] or ""
        page.spend(len(text))
        return page.absolute(text, base) if base else text

    return attribute


def _text(node: "Node", page: _Page) -> str:
    only = node.first_child
    if only is None:
        return ""
    text = (only.text_content or "") if only.is_text_node and only.next is None else "".join(_pieces(node, page))
    page.spend(len(text))
    return " ".join(text.split())


def _pieces(node: "Node", page: _Page) -> list[str]:
    """The texts in an element, in order, with a space wherever a line of text ends."""
    pieces: list[str] = []
    seen = 0
    end = node.mem_id
    at: Node | None = node.first_child
    while at is not None:
        seen += 1
        if seen % _PORTION == 0:
            page.spend(_PORTION)  # reading the clock takes as long as looking at an element
        tag = at.tag
        if at.is_text_node:
            pieces.append(at.text_content or "")
        elif tag not in _UNSEEN:
            if tag not in _INLINE:
                pieces.append(" ")
            if (child := at.first_child) is not None:
                at = child
                continue
        while at.next is None:
            at = at.parent
            if at is None or at.mem_id == end:
                return pieces
            if at.tag not in _INLINE:
                pieces.append(" ")
        at = at.next
    return pieces
