"""One HTTP exchange as plain data: the request, the address and the response.

These are built and read on the hot path, so they are msgspec structs (created in about 0.1 us; a frozen dataclass takes 1 us).
"""

import ipaddress
import re
from typing import Final, Protocol
from urllib.parse import urlsplit

import msgspec

DEFAULT_PORTS: Final = {"http": 80, "https": 443}

# RFC 1035 section 2.3.4 for the length; `_` occurs in names of services.
_LABEL: Final = re.compile(r"[A-Za-z0-9_-]{1,63}")


class HeaderBlock(msgspec.Struct, frozen=True):
    """Header fields that are the same for every request of a call, rendered once at plan time.

    `pairs`: (lower-case name, value), in order. `wire`: the same as `name: value\\r\\n` lines, without the empty line.
    Neither contains `host`, `content-length` or `transfer-encoding`: the transport writes those.
    """

    pairs: tuple[tuple[bytes, bytes], ...]
    wire: bytes

    @classmethod
    def of(cls, pairs: "list[tuple[bytes, bytes]]") -> "HeaderBlock":
        """Render `pairs`; names become lower case. The caller guarantees that they contain no CR, LF or NUL."""
        folded = tuple((name.lower(), value) for name, value in pairs)
        return cls(pairs=folded, wire=b"".join(b"%b: %b\r\n" % pair for pair in folded))


NO_HEADERS: Final = HeaderBlock(pairs=(), wire=b"")


class BodySource(Protocol):
    """A request body that is not held in memory. It can be read more than once: by a retry, a hedge or a redirect."""

    def __len__(self) -> int:
        """Its size in bytes, which does not change."""
        ...

    def read(self, start: int, size: int) -> bytes:
        """`size` bytes from `start`, fewer only at the end. Blocking: transports call it on a thread. Raises OSError."""
        ...


class Request(msgspec.Struct, frozen=True):
    """One request to an upstream, before an address is chosen.

    `target`: path and query in origin form, ASCII, percent-encoded, starting with `/`; the transport prepends the address's base path.
    `headers`: fixed at plan time. `extra`: fields of this request, names in lower case, values without CR, LF and NUL.
    `body`: bytes, or a source of them if it is large; None if there is none. Then `content-length` is sent only for methods that normally have a body, as 0.
    `host`: value of the Host header; b"" takes it from the address.
    """

    method: str
    target: str
    headers: HeaderBlock = NO_HEADERS
    extra: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes | BodySource | None = None
    host: bytes = b""


REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
"""The statuses of redirects that can be followed. **Source:** RFC 9110 section 15.4."""
ANY_2XX: Final = frozenset(range(200, 300))
"""The statuses of good answers where the document names no others."""


class StreamRule(msgspec.Struct, frozen=True):
    """How the body of a streamed response is read.

    `idle_timeout_s`: longest wait for its next part while the reader wants one. `max_bytes`: of the whole body, as received and as decoded;
    None: any size. `is_decoded`: content codings are undone; False gives the bytes as they are on the wire.
    """

    idle_timeout_s: float
    max_bytes: int | None = None
    is_decoded: bool = False


class Answer(msgspec.Struct, frozen=True):
    """One complete response: final status, header fields (lower-case names, wire order, repeats kept), content-decoded body."""

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
    """Where to reach an upstream.

    `host`: without brackets and without the dot that may end a name (verified by TLS, sent as Host). `port`: TCP. `base_path`:
    percent-encoded, no trailing slash, "" for none. `ip`: connect to this literal address instead of resolving `host`; None resolves when
    connecting. `is_absolute`: the name was written with its dot, so no search domain is tried when it is resolved.
    """

    scheme: str
    host: str
    port: int
    base_path: str = ""
    ip: str | None = None
    is_absolute: bool = False

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Parse `http(s)://host[:port][/base]`. Raises ValueError with a sentence for the operator that quotes nothing of `url`."""
        address, target = cls.parse_target(url)
        if "?" in target:
            raise ValueError("a query is not allowed in an upstream's URL")
        return msgspec.structs.replace(address, base_path=target.rstrip("/"))

    @classmethod
    def parse_target(cls, url: str) -> "tuple[Address, str]":
        """Parse `http(s)://host[:port][/path][?query]` to an address without base path, and a request target. Raises like `parse`."""
        if any(not 0x20 < ord(char) < 0x7F for char in url):
            raise ValueError(
                "a URL must not contain spaces, control characters or characters beyond ASCII; percent-encode them, "
                "and write a host name in its xn-- form"
            )
        try:
            parts = urlsplit(url)
            port = DEFAULT_PORTS.get(parts.scheme) if parts.port is None else parts.port
        except ValueError:
            raise ValueError("must be a URL such as http://host:8080/base") from None
        if port is None or parts.scheme not in DEFAULT_PORTS:
            raise ValueError("a URL must begin with http:// or https://")
        if port == 0:
            raise ValueError("the port must be between 1 and 65535")
        if parts.username is not None or parts.password is not None:
            raise ValueError("credentials are not allowed in a URL; set a header instead")
        if not parts.hostname:
            raise ValueError("the host is missing")
        if parts.fragment:
            raise ValueError("a fragment is not allowed in a URL")
        host = parts.hostname.removesuffix(".")
        if ":" not in host and any(not _LABEL.fullmatch(label) for label in host.split(".")):
            raise ValueError("the host is not a name: its parts must have 1 to 63 letters, digits, `-` or `_`")
        address = cls(scheme=parts.scheme, host=host, port=port, is_absolute=host != parts.hostname and not _is_ipv4(host))
        return address, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    @property
    def lookup_name(self) -> str:
        """What is resolved when `ip` is None: an absolute name with its dot (RFC 6066 section 3 keeps the dot out of TLS)."""
        return f"{self.host}." if self.is_absolute else self.host

    @property
    def authority(self) -> str:
        """The value of the Host header: contains the port only if it is not the scheme's default (RFC 9110 section 7.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """`scheme://authority`, for logs and explain."""
        return f"{self.scheme}://{self.authority}"


def _is_ipv4(host: str) -> bool:
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True
