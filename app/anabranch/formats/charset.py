"""Bytes as text, by the charset that is declared for them.

A label means what it means on the web: `iso-8859-1` and `us-ascii` are windows-1252, a byte order mark overrides every label. Codecs of Python
that are no charsets (`zlib`, `unicode_escape`, `idna`) are unknown labels.

**Source:** WHATWG Encoding Standard sections 4.2 (labels) and 6 (byte order marks); RFC 9110 section 8.3.1 (parameters).
"""

import codecs
import re
from typing import Final

from anabranch.errors import InvalidCharset

_PARAMETER: Final = re.compile(r';\s*charset\s*=\s*"?([^\s";,]+)', re.IGNORECASE)
_MARKS: Final = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_CHARSETS: Final = frozenset(
    {
        "utf-8", "utf-16-le", "utf-16-be", "cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "cp866", "cp874",
        "iso8859-2", "iso8859-3", "iso8859-4", "iso8859-5", "iso8859-6", "iso8859-7", "iso8859-8", "iso8859-10", "iso8859-13", "iso8859-14",
        "iso8859-15", "iso8859-16", "koi8-r", "koi8-u", "mac-roman", "mac-cyrillic", "gbk", "gb18030", "big5", "euc_jp", "iso2022_jp", "shift_jis",
        "cp932", "euc_kr", "cp949",
    }
)  # fmt: skip
"""By the names of Python's codecs."""
_AS_ON_THE_WEB: Final = {
    "ascii": "cp1252", "iso8859-1": "cp1252", "iso8859-9": "cp1254", "iso8859-11": "cp874", "tis-620": "cp874", "utf-16": "utf-16-le",
    "gb2312": "gbk", "euc_kr": "cp949", "shift_jis": "cp932",
}  # fmt: skip


def codec_of_content_type(content_type: str, declared: str = "") -> str:
    """The name of Python's codec for the label in a Content-Type field; without one, for `declared`, or else UTF-8. Raises InvalidCharset."""
    found = _PARAMETER.search(content_type)
    label = declared if found is None else found[1]
    codec = codec_of(label) if label else "utf-8"
    if codec is None:
        raise InvalidCharset("the charset that the answer declares is unknown", may_be_processed=True)
    return codec


def codec_of(label: str) -> str | None:
    """The name of Python's codec for a label; None for an unknown one."""
    try:
        name = codecs.lookup(label).name
    except (LookupError, ValueError):
        return None
    name = _AS_ON_THE_WEB.get(name, name)
    return name if name in _CHARSETS else None


def read_text(body: bytes, content_type: str, *, declared: str = "", errors: str = "strict") -> str:
    """The text of a body, without a byte order mark. What decides its charset, in this order: the mark, the content type, `declared` (a label that
    the body itself contains), UTF-8.

    `errors`: `replace` replaces bytes that are no character by U+FFFD. Raises InvalidCharset.
    """
    for mark, name in _MARKS:
        if body.startswith(mark):
            return decode(body[len(mark) :], name, errors)
    return decode(body, codec_of_content_type(content_type, declared), errors)


def decode(body: bytes, codec: str, errors: str = "strict") -> str:
    """Raises InvalidCharset."""
    try:
        return body.decode(codec, errors)
    except UnicodeDecodeError as error:
        raise InvalidCharset(
            f"byte {error.start + 1} is not part of a character in the charset of the answer", may_be_processed=True
        ) from None
