"""Client certificates: the connection has verified them already."""

from collections.abc import Callable
from typing import Final

import msgspec

from anabranch.config.auth.mtls import MTLS
from anabranch.core.certificate import ClientCertificate
from anabranch.core.principal import Principal
from anabranch.guard.auth.seam import InvalidCredential, Presented
from anabranch.guard.tools import Tools

_MOST: Final = 4096


class MTLSAuthenticator:
    """The principal is the subject of the certificate. A connection may outlast its certificate; its requests do not."""

    challenge = "ClientCertificate"
    """No registered scheme: nothing in the header of a request can answer it. `Mutual` is another one (RFC 8120)."""

    def __init__(self, name: str, source: MTLS, clock: Callable[[], float]) -> None:
        self._name = name
        self._subject = source.subject
        self._clock = clock
        self._known: dict[str, Principal] = {}

    def recall(self, presented: Presented) -> Principal | None:
        certificate = presented.certificate
        found = None if certificate is None else self._known.get(certificate.fingerprint)
        return None if found is None or found.expires_at <= self._clock() else found

    def is_presented(self, presented: Presented) -> bool:
        return presented.certificate is not None

    async def authenticate(self, presented: Presented) -> Principal | None:
        certificate = presented.certificate
        if certificate is None:
            return None
        if certificate.not_after <= self._clock():
            raise InvalidCredential("expired")
        subject = _subject_of(certificate, self._subject)
        if not subject:
            raise InvalidCredential("no_subject")
        principal = Principal(
            subject, certificate.common_name or subject, self._name, msgspec.json.encode(certificate), expires_at=certificate.not_after
        )
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[certificate.fingerprint] = principal
        return principal


def _subject_of(certificate: ClientCertificate, kind: str) -> str:
    if kind == "dn":
        return certificate.subject
    if kind == "cn":
        return certificate.common_name
    return next(iter(certificate.dns if kind == "dns" else certificate.uris), "")


def build(name: str, source: MTLS, tools: Tools) -> MTLSAuthenticator:
    return MTLSAuthenticator(name, source, tools.clock)
