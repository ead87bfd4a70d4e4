"""Puts the head of a response into the form that the parser accepts, where it deviates in a way that every HTTP client takes.

Called only for a head that llhttp has rejected. Repairs what cannot be read in two ways; everything else stays rejected, and nothing is
repaired in a field that decides where the message ends. docs/decisions/0013-what-services-send.md has the table.
"""

from typing import Final

_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})
_BLANK: Final = b" \t"


def tidied(data: bytes) -> tuple[bytes, int] | None:
    """The repaired head that `data` begins with, and the length of the original; None if it cannot be repaired.

    Repairs: lines that all end with LF alone; folded lines (RFC 9112 section 5.2 lets a gateway replace them by a space); white space
    before a colon (section 5.1 lets a proxy remove it); several equal values of Content-Length (RFC 9110 section 8.6).
    """
    newline = data.find(b"\n")
    ends = b"\r\n" if newline > 0 and data[newline - 1] == 0x0D else b"\n"
    size = data.find(ends + ends)
    if size < 0:
        return None
    first, *lines = data[:size].split(ends)
    fields: list[tuple[bytes, bytes]] = []
    for line in lines:
        if line[:1] in {b" ", b"\t"}:
            if not fields or fields[-1][0].lower() in _FRAMING:
                return None
            fields[-1] = (fields[-1][0], fields[-1][1] + b" " + line.strip(_BLANK))
            continue
        written, colon, value = line.partition(b":")
        name = written.rstrip(_BLANK)
        if not colon or (name != written and name.lower() in _FRAMING):
            return None
        fields.append((name, value))
    fields = _one_length(fields)
    head = b"\r\n".join([first, *(b"%b:%b" % field for field in fields), b"", b""])
    # What is left of the other line ends is in a line: the parser rejects it.
    return head, size + 2 * len(ends)


def _one_length(fields: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """`fields` with one Content-Length, if there are several that are all spelled alike."""
    values = [value.strip(_BLANK) for name, line in fields if name.lower() == b"content-length" for value in line.split(b",")]
    if len(values) < 2 or len(set(values)) != 1:
        return fields
    return [(b"content-length", values[0]), *(field for field in fields if field[0].lower() != b"content-length")]
