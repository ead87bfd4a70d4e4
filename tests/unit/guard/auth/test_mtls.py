"""Principals by client certificates."""

from dataclasses import dataclass, field
from typing import Literal

import msgspec
import pytest

from anabranch.config.auth import MTLS
from anabranch.core.certificate import ClientCertificate
from anabranch.guard.auth.mtls import MTLSAuthenticator, build
from anabranch.guard.auth.seam import InvalidCredential
from anabranch.guard.tools import Tools

CERTIFICATE = ClientCertificate(
    "CN=shop,O=Example", "CN=root", "shop", ("a.example", "b.example"), ("spiffe://x/a",), "0a", 1000.0, "f" * 64
)


@dataclass
class Request:
    certificate: ClientCertificate | None
    headers: dict[bytes, bytes] = field(default_factory=dict)
    query: bytes = b""


def authenticator(subject: Literal["dn", "cn", "dns", "uri"] = "dn", now: float = 0.0) -> MTLSAuthenticator:
    return build("machines", MTLS(subject=subject), Tools(clock=lambda: now))


@pytest.mark.parametrize(("subject", "sub"), [("dn", "CN=shop,O=Example"), ("cn", "shop"), ("dns", "a.example"), ("uri", "spiffe://x/a")])
async def test_the_subject_is_the_principal(subject: Literal["dn", "cn", "dns", "uri"], sub: str) -> None:
    asked = authenticator(subject)
    request = Request(CERTIFICATE)
    assert asked.recall(request) is None
    principal = await asked.authenticate(request)
    assert principal is not None
    assert (principal.sub, principal.name, principal.via, principal.expires_at) == (sub, "shop", "machines", 1000.0)
    assert msgspec.json.decode(principal.claims)["fingerprint"] == "f" * 64
    assert asked.recall(request) is principal


async def test_a_field_of_the_request_is_no_certificate() -> None:
    request = Request(None, {b"client-cert": b":AAAA:", b"x-forwarded-client-cert": b'Subject="CN=shop"', b"ssl-client-verify": b"SUCCESS"})
    assert authenticator().recall(request) is None
    assert await authenticator().authenticate(request) is None


@pytest.mark.parametrize("subject", ["cn", "dns", "uri", "dn"])
async def test_a_certificate_without_the_name_is_refused(subject: Literal["dn", "cn", "dns", "uri"]) -> None:
    nameless = msgspec.structs.replace(CERTIFICATE, subject="", common_name="", dns=(), uris=())
    with pytest.raises(InvalidCredential, match="no_subject"):
        await authenticator(subject).authenticate(Request(nameless))


async def test_a_connection_that_outlives_its_certificate_is_not_served_with_it() -> None:
    now = [999.0]
    asked = build("machines", MTLS(), Tools(clock=lambda: now[0]))
    request = Request(CERTIFICATE)
    assert await asked.authenticate(request) is not None
    now[0] = 1000.0
    assert asked.recall(request) is None
    with pytest.raises(InvalidCredential, match="expired"):
        await asked.authenticate(request)


async def test_two_certificates_of_one_subject_are_one_principal() -> None:
    asked = authenticator()
    renewed = msgspec.structs.replace(CERTIFICATE, serial="0b", fingerprint="e" * 64)
    first, second = await asked.authenticate(Request(CERTIFICATE)), await asked.authenticate(Request(renewed))
    assert first is not None
    assert second is not None
    assert first.identity == second.identity
