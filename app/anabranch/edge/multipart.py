"""Reads a multipart/form-data body as it arrives: texts into memory, files into a spool. Never holds the whole body.

**Source:** RFC 7578 sections 4.2 to 4.8; RFC 2046 section 5.1.
"""

import logging
from hashlib import sha256
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from anabranch.core.upload import Upload
from anabranch.edge.spool import Spool
from anabranch.errors import BodyTooLarge, InvalidBody

MOST_PARTS: Final = 1000
MOST_TEXT_BYTES: Final = 1 << 20
_MOST_HEADERS: Final = 8
_MOST_HEADER_BYTES: Final = 4096
_UNENCODED: Final = frozenset({b"7bit", b"8bit", b"binary"})
_CONTROLS: Final = frozenset(map(chr, (*range(0x20), 0x7F)))
_CHARSETS: Final = frozenset({b"utf-8", b"utf8", b"us-ascii"})

# The parser warns of what clients send, which is no matter for the log, and quotes from it.
_NOWHERE: Final = logging.Logger("anabranch.edge.multipart", logging.CRITICAL + 1)  # noqa: LOG001 - not for configuration


def boundary_of(content_type: bytes) -> bytes:
    """The boundary in a Content-Type field. Raises InvalidBody."""
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise InvalidBody("the content type of the multipart body has no boundary")
    return boundary


class MultipartReader:
    """One body. `values`: the texts and files of each field, complete when `finish` has returned.

    `feed` and `finish` raise InvalidBody and BodyTooLarge. After each `feed` the caller awaits `spool.settle`.
    """

    def __init__(self, boundary: bytes, spool: Spool) -> None:
        self.values: dict[str, list[str | Upload]] = {}
        self._spool = spool
        self._parts = 0
        self._text_bytes = 0
        self._is_complete = False
        self._header_name = b""
        self._header_value = b""
        self._headers: dict[bytes, bytes] = {}
        self._name = ""
        self._filename: str | None = None
        self._text = bytearray()
        self._start = 0
        self._digest = sha256()
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_part_data": self._on_part_data,
                    "on_part_end": self._on_part_end,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_end": self._on_end,
                },
                max_header_count=_MOST_HEADERS,
                max_header_size=_MOST_HEADER_BYTES,
            )
        except FormParserError:
            raise InvalidBody("the boundary of the multipart body is too long") from None
        self._parser.logger = _NOWHERE

    def feed(self, data: bytes) -> None:
        try:
            self._parser.write(data)
        except FormParserError:
            # The parser's own sentence quotes the body.
            raise InvalidBody(
                "the body is not multipart/form-data as its boundary says, or the header fields of a part are too large"
            ) from None

    def finish(self) -> None:
        if not self._is_complete:
            raise InvalidBody("the multipart body ends before its last boundary")

    # ----------------------------------------------------------------------------------------------- parser callbacks

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise BodyTooLarge(f"the body has more than {MOST_PARTS} parts")
        self._headers = {}
        self._text = bytearray()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        name = self._header_name.lower()
        if name in self._headers:
            raise InvalidBody("a part of the body has the same header field twice")
        self._headers[name] = self._header_value
        self._header_name = self._header_value = b""

    def _on_headers_finished(self) -> None:
        disposition, options = parse_options_header(self._headers.get(b"content-disposition"))
        if disposition != b"form-data" or b"name" not in options:
            raise InvalidBody('each part of the body needs `Content-Disposition: form-data; name="..."`')
        if self._headers.get(b"content-transfer-encoding", b"binary").strip().lower() not in _UNENCODED:
            raise InvalidBody("a part of the body has a transfer encoding; send its bytes as they are")  # RFC 7578 section 4.7
        self._name = _decoded(options[b"name"])
        filename = options.get(b"filename")
        self._filename = None if filename is None else _decoded(filename)
        if self._filename is not None and not _CONTROLS.isdisjoint(self._filename):
            raise InvalidBody("the name of a file has control characters")
        self._start = self._spool.size_bytes
        self._digest = sha256()
        if self._filename is None:
            _, parameters = parse_options_header(self._headers.get(b"content-type"))
            if parameters.get(b"charset", b"utf-8").lower() not in _CHARSETS:
                raise InvalidBody("a text of the body is in another charset than UTF-8")

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._filename is not None:
            piece = memoryview(data)[start:end]
            self._digest.update(piece)
            self._spool.append(piece)
            return
        self._text_bytes += end - start
        if self._text_bytes > MOST_TEXT_BYTES:
            raise BodyTooLarge(f"the texts in the body have more than {MOST_TEXT_BYTES} bytes together")
        self._text += data[start:end]

    def _on_part_end(self) -> None:
        value: str | Upload
        if self._filename is None:
            value = _decoded(bytes(self._text))
        else:
            size_bytes = self._spool.size_bytes - self._start
            if not self._filename and not size_bytes:
                return  # what browsers send when no file was chosen
            media_type = self._headers.get(b"content-type", b"application/octet-stream").decode("latin-1").strip()
            if not (media_type.isascii() and media_type.isprintable()):
                raise InvalidBody("the content type of a file is not valid")
            value = Upload(self._filename, media_type, size_bytes, self._digest.hexdigest(), self._start, self._spool)
        self.values.setdefault(self._name, []).append(value)

    def _on_end(self) -> None:
        self._is_complete = True


def _decoded(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise InvalidBody("a name or text in the body is not UTF-8") from None
