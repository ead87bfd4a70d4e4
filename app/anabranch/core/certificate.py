"""A client's certificate, as its connection has verified it. Pure: no sockets."""

from collections.abc import Iterable, Mapping
from hashlib import sha256
from ssl import cert_time_to_seconds
from typing import Any, Final

import msgspec

# RFC 4514 section 3; other types keep the names that OpenSSL gives them.
_SHORT: Final = {
    "commonName": "CN", "localityName": "L", "stateOrProvinceName": "ST", "organizationName": "O", "organizationalUnitName": "OU",
    "countryName": "C", "streetAddress": "STREET", "domainComponent": "DC", "userId": "UID",
}  # fmt: skip
_ESCAPED: Final = frozenset(',+"\\<>;')


CERTIFICATE: Final = "anabranch.certificate"
"""Key in the TLS extension of a request's scope."""


class ClientCertificate(msgspec.Struct, frozen=True):
    """`subject`, `issuer`: distinguished names (RFC 4514). `common_name`: the last one of the subject; "" for none. `dns`, `uris`: of the subject alternative names. `serial`: in hexadecimal.
    `not_after`: seconds since the epoch. `fingerprint`: SHA-256 of the certificate, in hexadecimal."""

    subject: str
    issuer: str
    common_name: str
    dns: tuple[str, ...]
    uris: tuple[str, ...]
    serial: str
    not_after: float
    fingerprint: str

    @classmethod
    def of(cls, details: Mapping[str, Any], der: bytes) -> "ClientCertificate":
        """`details`: as `ssl.SSLSocket.getpeercert` gives them."""
        names = details.get("subjectAltName", ())
        return cls(
            subject=_distinguished(details.get("subject", ())),
            issuer=_distinguished(details.get("issuer", ())),
            common_name=next(
                (value for pairs in reversed(details.get("subject", ())) for name, value in pairs if name == "commonName"), ""
            ),
            dns=tuple(value for kind, value in names if kind == "DNS"),
            uris=tuple(value for kind, value in names if kind == "URI"),
            serial=details.get("serialNumber", "").lower(),
            not_after=cert_time_to_seconds(details["notAfter"]),
            fingerprint=sha256(der).hexdigest(),
        )


def certificate_of(scope: Mapping[str, Any]) -> ClientCertificate | None:
    """The certificate of the connection that a request came by; None when it has none."""
    extensions = scope.get("extensions")
    return None if extensions is None else extensions.get("tls", {}).get(CERTIFICATE)


def _distinguished(names: Iterable[Iterable[tuple[str, str]]]) -> str:
    """The most specific part first, as the RFC has it."""
    return ",".join("+".join(f"{_SHORT.get(name, name)}={_escaped(value)}" for name, value in pairs) for pairs in reversed(tuple(names)))


def _escaped(value: str) -> str:
    text = "".join(f"\\{char}" if char in _ESCAPED else f"\\{ord(char):02x}" if ord(char) < 0x20 else char for char in value)
    if text[1:].endswith(" "):
        text = text[:-1] + "\\ "
    return "\\" + text if text.startswith((" ", "#")) else text
