"""XML as JSON, and back, by one convention.

    <a id="1">text<b>2</b><b/></a>      {"a": {"@id": "1", "b": ["2", ""], "#text": "text"}}

An attribute is the member `@name`. An element with nothing but text is a string, an empty one the empty string. Text beside attributes or elements
is the member `#text`: all of it together. White space around text is left out. Elements of the same name are an array. Prefixes stay as they are
written, and so do declarations of namespaces (`@xmlns`). Comments and processing instructions are left out.

Entities that a document defines itself are refused, and nothing outside of it is ever read.

**Source:** XML 1.0 (Fifth Edition); RFC 7303 section 3 (which charset counts).
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, Final
from xml.parsers import expat

from anabranch.errors import InvalidFormat
from anabranch.formats.charset import codec_of, read_text
from anabranch.jsontext.path import parse_path
from anabranch.jsontext.raw import encode, items, members
from anabranch.jsontext.values import load

_FROM_BYTES: Final = 64 * 1024
_MOST_TAGS: Final = 1500
MAX_DEPTH: Final = 200
"""Of elements. An element may become two levels of JSON, and readers of JSON have limits of their own."""

_WHITESPACE: Final = " \t\r\n"
_DECLARED: Final = re.compile(rb"""\s*<\?xml[^>]{0,200}?\sencoding\s*=\s*["']([A-Za-z0-9._-]{1,40})["']""")
_NAME: Final = re.compile(r"[A-Za-z_:\u00c0-\U000effff][-.A-Za-z0-9_:\u00b7-\U000effff]*")
_NOT_IN_XML: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")

_Arrays = dict[str, tuple[bool, Any]]
"""By name of an element: whether it is always an array, and the same for the elements in it."""
_NONE: Final[_Arrays] = {}


def arrays_of(paths: Sequence[str]) -> _Arrays:
    """The elements that are arrays even where there is only one, from paths such as `rss.channel.item`."""
    root: _Arrays = {}
    for text in paths:
        node = root
        *above, last = parse_path(text)
        for name in above:
            node = node.setdefault(name, (False, {}))[1]
        node[last] = (True, node[last][1] if last in node else {})
    return root


def is_large(body: bytes) -> bool:
    return len(body) >= _FROM_BYTES or body.count(b"<") - body.count(b"</") > _MOST_TAGS


def reader(paths: Sequence[str] = ()) -> Callable[[bytes, str], bytes]:
    """A function from a document and its content type to JSON text. It raises InvalidFormat and InvalidCharset. `paths`: see `arrays_of`; where
    the element around them is, but none of them, there is an empty array."""
    arrays = arrays_of(paths)

    def read(body: bytes, content_type: str) -> bytes:
        if not body.strip():
            raise InvalidFormat("the body is empty, and not XML", may_be_processed=True)
        document = _in_utf8(body, content_type)
        try:
            return encode(_Builder(arrays).parse(document))
        except _DocumentType as found:
            return encode(_Builder(arrays).parse(_without_type(document, found.end)))

    return read


def _in_utf8(body: bytes, content_type: str) -> bytes:
    found = _DECLARED.match(body[:512])
    declared = found[1].decode() if found is not None else _of_two_bytes(body)
    if found is not None and (codec_of(declared) or "").startswith("utf-16"):
        declared = "utf-8"  # in UTF-16 the declaration could not have been read
    # White space before the XML declaration is an error to the parser, and the commonest one of services that print their answers.
    return read_text(body, content_type, declared=declared).lstrip(_WHITESPACE).encode()


def _of_two_bytes(body: bytes) -> str:
    """The charset of a document that begins with a character of two bytes (XML 1.0 appendix F.1); "" for others."""
    return {b"<\0": "utf-16-le", b"\0<": "utf-16-be"}.get(body[:2], "")


def _without_type(document: bytes, end: int) -> bytes:
    """The document without the document type that ends at this byte. With one, an entity that is not defined would vanish without an error, because
    it could be defined outside of the document (XML 1.0 section 4.1, "Entity Declared")."""
    start = document.rfind(b"<!DOCTYPE", 0, end)
    return document[:start] + re.sub(rb"[^\n]", b" ", document[start : end + 1]) + document[end + 1 :]


class _DocumentType(Exception):
    """The document has a type without declarations of its own. `end`: the byte of its `>`."""

    def __init__(self, end: int) -> None:
        super().__init__()
        self.end = end


class _Builder:
    """Builds the value of one document."""

    def __init__(self, arrays: _Arrays) -> None:
        self._root: dict[str, Any] = {}
        self._stack: list[tuple[dict[str, Any], list[str], _Arrays]] = [(self._root, [], arrays)]
        self._parser = parser = expat.ParserCreate("UTF-8")
        parser.buffer_text = True
        parser.ordered_attributes = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.StartDoctypeDeclHandler = self._doctype
        parser.EndDoctypeDeclHandler = self._end_of_doctype

    def parse(self, document: bytes) -> dict[str, Any]:
        """The value. Raises InvalidFormat and _DocumentType."""
        try:
            self._parser.Parse(document, True)
        except expat.ExpatError as error:
            raise self._invalid(expat.ErrorString(error.code)) from None
        except UnicodeDecodeError:
            raise self._invalid("it is not UTF-8") from None
        return self._root

    def _invalid(self, reason: str) -> InvalidFormat:
        at = f"at line {self._parser.CurrentLineNumber}, column {self._parser.CurrentColumnNumber + 1}"
        return InvalidFormat(f"the body is not XML that can be read: {reason} {at}", may_be_processed=True)

    def _doctype(self, _name: str, _system: str | None, _public: str | None, has_subset: int) -> None:
        if has_subset:
            raise self._invalid("it has a document type with declarations of its own, which are not allowed")

    def _end_of_doctype(self) -> None:
        raise _DocumentType(self._parser.CurrentByteIndex)

    def _start(self, name: str, attributes: list[str]) -> None:
        stack = self._stack
        if len(stack) > MAX_DEPTH:
            raise self._invalid(f"it has more than {MAX_DEPTH} levels of elements")
        fields: dict[str, Any] = {f"@{attributes[index]}": attributes[index + 1] for index in range(0, len(attributes), 2)}
        arrays = stack[-1][2]
        stack.append((fields, [], arrays[name][1] if name in arrays else _NONE))

    def _text(self, text: str) -> None:
        self._stack[-1][1].append(text)

    def _end(self, name: str) -> None:
        fields, texts, arrays = self._stack.pop()
        for child, (is_array, _) in arrays.items():
            if is_array:
                fields.setdefault(child, [])
        text = "".join(texts).strip(_WHITESPACE)
        value: Any = text
        if fields:
            value = fields
            if text:
                fields["#text"] = text
        above, _, arrays = self._stack[-1]
        earlier = above.get(name)
        if earlier is None:
            above[name] = [value] if name in arrays and arrays[name][0] else value
        elif type(earlier) is list:
            earlier.append(value)
        else:
            above[name] = [earlier, value]


def write(value: bytes) -> bytes:
    """The document for JSON text by the same convention: an object with one member, the root element. Numbers keep their spelling; null is an empty
    element. Raises ValueError, with a sentence that quotes nothing, for what no document can say."""
    fields = members(value)
    if fields is None or len(fields) != 1:
        raise ValueError("XML needs an object with exactly one member, the root element")
    ((name, root),) = fields.items()
    parts = ['<?xml version="1.0" encoding="UTF-8"?>\n']
    if items(root) is not None:
        raise ValueError("the root element cannot be an array")
    _write_element(name, bytes(root), parts, 1)
    return "".join(parts).encode()


def _write_element(name: str, value: bytes, parts: list[str], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"XML cannot have more than {MAX_DEPTH} levels of elements")
    _check_name(name)
    fields = members(value)
    if fields is None:
        text = _scalar(value)
        parts.append(f"<{name}>{_escaped(text)}</{name}>" if text else f"<{name}/>")
        return
    attributes = "".join(f' {_check_name(key[1:])}="{_escaped(_scalar(bytes(raw)))}"' for key, raw in fields.items() if key.startswith("@"))
    parts.append(f"<{name}{attributes}>")
    for key, raw in fields.items():
        if key == "#text":
            parts.append(_escaped(_scalar(bytes(raw))))
        elif not key.startswith("@"):
            elements = items(raw)
            for element in [raw] if elements is None else elements:
                if elements is not None and items(element) is not None:
                    raise ValueError("XML has no array in an array")
                _write_element(key, bytes(element), parts, depth + 1)
    parts.append(f"</{name}>")


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("a name cannot be that of an element or attribute")
    return name


def _scalar(value: bytes) -> str:
    if value[:1] in (b"{", b"["):
        raise ValueError("an attribute, or `#text`, must be text, a number, a boolean or null")
    if value[:1] == b'"':
        text: str = load(value)
        return text
    return "" if value == b"null" else value.decode()


def _escaped(text: str) -> str:
    if _NOT_IN_XML.search(text):
        raise ValueError("a text has a control character, which XML cannot have")
    for char, escape in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("\t", "&#9;"), ("\n", "&#10;"), ("\r", "&#13;")):
        text = text.replace(char, escape)
    return text
