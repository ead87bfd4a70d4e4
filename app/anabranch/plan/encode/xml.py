"""application/xml: an object with one member, the root element.

`@name` is an attribute, `#text` the text of an element that has attributes or elements too, an array repeats its element, null is an empty element
(or no attribute). Names keep their prefixes as they are written, so a namespace is an attribute `@xmlns:p`.

**Source:** XML 1.0 (fifth edition) sections 2.2 (characters), 2.4 (escapes) and 3.3.3 (white space in attributes); Namespaces in XML 1.0 section 4.
"""

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Final

import msgspec

from anabranch.errors import UnencodableBody
from anabranch.formats.xml import MAX_DEPTH
from anabranch.jsontext.raw import NULL, items, members
from anabranch.plan.encode.shapes import is_scalar, object_of
from anabranch.plan.value import as_text

MEDIA_TYPE: Final = "application/xml"
ATTRIBUTE: Final = "@"
TEXT: Final = "#text"

_DECLARATION: Final = '<?xml version="1.0" encoding="UTF-8"?>\n'
_START: Final = (
    r"A-Z_a-z\u00C0-\u00D6\u00D8-\u00F6\u00F8-\u02FF\u0370-\u037D\u037F-\u1FFF\u200C-\u200D\u2070-\u218F\u2C00-\u2FEF\u3001-\uD7FF\uF900-\uFDCF"
    r"\uFDF0-\uFFFD\U00010000-\U000EFFFF"
)
_PART: Final = rf"[{_START}][{_START}\-.0-9\u00B7\u0300-\u036F\u203F-\u2040]*"
_NO_CHARACTER: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_IN_TEXT: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"}
_IN_ATTRIBUTE: Final = str.maketrans({**_IN_TEXT, '"': "&quot;", "\t": "&#9;", "\n": "&#10;"})
_IN_ELEMENT: Final = str.maketrans(_IN_TEXT)


@cache
def _name() -> re.Pattern[str]:
    """The pattern of a name. It takes 30 ms to compile, and few documents write XML."""
    return re.compile(rf"{_PART}(:{_PART})?")


def _is_name(text: str) -> bool:
    return _name().fullmatch(text) is not None


def report(node: Any, problem: Callable[..., None]) -> None:
    """Report what in a template can never be written as XML."""
    root = object_of(node, problem, "an XML document")
    if root is None:
        return
    if len(root) != 1:
        problem(f"an XML document has one root element, and this object has {len(root)} members")
    for name, value in root.items():
        if isinstance(value, list) or name == TEXT or name.startswith(ATTRIBUTE):
            problem("the root of an XML document is one element", name)
        else:
            _report({name: value}, problem)


def _report(node: dict[str, Any], problem: Callable[..., None], *above: str | int) -> None:
    for name, value in node.items():
        at = (*above, name)
        if name == TEXT or name.startswith(ATTRIBUTE):
            if not is_scalar(value):
                problem("an attribute, or `#text`, is a text, a number or a boolean", *at)
            if name != TEXT and not _is_name(name[1:]):
                problem("this is not a name that an attribute can have", *at)
            continue
        if not _is_name(name):
            problem("this is not a name that an element can have", *at)
        for below, item in [((*at, number), item) for number, item in enumerate(value)] if isinstance(value, list) else [(at, value)]:
            if isinstance(item, list):
                problem("an array repeats its element, so it cannot have an array in it", *below)
            elif isinstance(item, dict):
                _report(item, problem, *below)


def encode(text: bytes) -> bytes:
    """Raises UnencodableBody."""
    root = members(text)
    if root is None or len(root) != 1:
        raise UnencodableBody("the body of the call is not an object with one member, the root element of an XML document")
    ((name, value),) = root.items()
    if name == TEXT or name.startswith(ATTRIBUTE) or items(value) is not None:
        raise UnencodableBody("the root of an XML document is one element")
    return "".join([_DECLARATION, *_element(name, value, 1)]).encode()


def _element(name: str, raw: msgspec.Raw, level: int) -> Iterator[str]:
    if not _is_name(name):
        raise UnencodableBody("a name is not one that an XML element can have")
    if level > MAX_DEPTH:
        raise UnencodableBody(f"the XML document has more than {MAX_DEPTH} levels")
    fields = members(raw)
    if fields is None:
        content = "" if bytes(raw) == NULL else _escaped(raw, _IN_ELEMENT)
        yield f"<{name}>{content}</{name}>" if content else f"<{name}/>"
        return
    attributes = "".join(
        f' {_attribute(key[1:])}="{_escaped(value, _IN_ATTRIBUTE)}"'
        for key, value in fields.items()
        if key.startswith(ATTRIBUTE) and bytes(value) != NULL
    )
    yield f"<{name}{attributes}>"
    for key, value in fields.items():
        if key == TEXT:
            if bytes(value) != NULL:
                yield _escaped(value, _IN_ELEMENT)
        elif not key.startswith(ATTRIBUTE):
            array = items(value)
            for item in [value] if array is None else array:
                if array is not None and items(item) is not None:
                    raise UnencodableBody("an array in the XML document has an array in it")
                yield from _element(key, item, level + 1)
    yield f"</{name}>"


def _attribute(name: str) -> str:
    if not _is_name(name):
        raise UnencodableBody("a name is not one that an XML attribute can have")
    return name


def _escaped(raw: msgspec.Raw, escapes: dict[int, str]) -> str:
    text = as_text(bytes(raw))
    if text is None:
        raise UnencodableBody("an attribute or text of the XML document is an object or an array")
    if _NO_CHARACTER.search(text):
        raise UnencodableBody("a text has a control character that XML cannot have")
    return text.translate(escapes)
