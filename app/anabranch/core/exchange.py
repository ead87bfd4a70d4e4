"""The two ends of one HTTP exchange as plain data: what is asked, of whom, and what was answered.

These are built and read on the hot path, so they are msgspec structs (created in about 0.1 us; a frozen dataclass takes 1 us).
The module knows nothing of sockets or policies.
"""

from typing import Final
from urllib.parse import urlsplit

import msgspec

DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class HeaderBlock(msgspec.Struct, frozen=True):
    """Header fields that are the same for every request of a call, rendered once at plan time.

    `pairs`: (lower-case name, value), in order. `wire`: the same as `name: value\\r\\n` lines, without the empty line.
    Neither holds `host`, `content-length` or `transfer-encoding`: the transport writes those.
    """

    pairs: tuple[tuple[bytes, bytes], ...]
    wire: bytes

    @classmethod
    def of(cls, pairs: "list[tuple[bytes, bytes]]") -> "HeaderBlock":
        """Render `pairs`; names are folded to lower case. The caller has made sure that no CR, LF or NUL is in them."""
        folded = tuple((name.lower(), value) for name, value in pairs)
        return cls(pairs=folded, wire=b"".join(b"%b: %b\r\n" % pair for pair in folded))


NO_HEADERS: Final = HeaderBlock(pairs=(), wire=b"")


class Request(msgspec.Struct, frozen=True):
    """One request to an upstream, before an address is chosen for it.

    `target`: path and query in origin form, ASCII, percent-encoded, starting with `/`; the address's base path goes before it.
    `headers`: fixed at plan time. `extra`: fields of this request, names in lower case, values proven free of CR, LF and NUL.
    `body`: None when there is none (then no `content-length` is sent).
    """

    method: str
    target: str
    headers: HeaderBlock = NO_HEADERS
    extra: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes | None = None


class StaleRule(msgspec.Struct, frozen=True):
    """How a failed call may be answered with what was answered before.

    `max_age_s`: how old that may be. `origin`: digest of all that is fixed about the call (its step and its upstream in the document), "" when
    something else about it comes from the client's header fields: then answers from a journal cannot be told apart.
    """

    max_age_s: float
    origin: str = ""


class Answer(msgspec.Struct, frozen=True):
    """One whole response: final status, header fields (lower-case names, wire order, repeats kept), content-decoded body."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """The first value of `name` (lower case), or None."""
        for key, value in self.headers:
            if key == name:
                return value
        return None


class Address(msgspec.Struct, frozen=True):
    """Where an upstream can be reached.

    `host`: as written, without brackets (it is verified by TLS and sent as Host). `port`: TCP. `base_path`: percent-encoded, no
    trailing slash, "" for none. `ip`: connect to this literal address instead of resolving `host`; None to resolve at connect.
    """

    scheme: str
    host: str
    port: int
    base_path: str = ""
    ip: str | None = None

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Read `http(s)://host[:port][/base]`. Raises ValueError with a sentence for the operator."""
        parts = urlsplit(url)
        if parts.scheme not in DEFAULT_PORTS:
            raise ValueError(f"the scheme must be http or https, not {parts.scheme or 'empty'}")
        if not parts.hostname:
            raise ValueError("a host is missing")
        if parts.username is not None or parts.password is not None:
            raise ValueError("credentials do not belong in a URL; set a header instead")
        if parts.query or parts.fragment:
            raise ValueError("a query or fragment does not belong in an upstream's URL")
        if any(ord(char) <= 0x20 or ord(char) > 0x7E for char in url):
            raise ValueError("only printable ASCII may stand in a URL; percent-encode the rest")
        port = parts.port if parts.port is not None else DEFAULT_PORTS[parts.scheme]
        if not 0 < port < 65536:
            raise ValueError("the port must be between 1 and 65535")
        return cls(scheme=parts.scheme, host=parts.hostname, port=port, base_path=parts.path.rstrip("/"))

    @property
    def authority(self) -> str:
        """The Host header's value: the port stands there only when it is not the scheme's own (RFC 9110 section 7.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """`scheme://authority`, for logs and explain."""
        return f"{self.scheme}://{self.authority}"
