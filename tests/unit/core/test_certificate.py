"""What is read from a client's certificate. **Source:** RFC 4514 section 2."""

from typing import Any

import pytest

from anabranch.core.certificate import ClientCertificate, certificate_of


def read(*subject: tuple[tuple[str, str], ...], **more: Any) -> ClientCertificate:
    details = {"subject": subject, "issuer": (), "serialNumber": "0AFF", "notAfter": "Jan  5 09:34:43 2030 GMT", **more}
    return ClientCertificate.of(details, b"der")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("shop", "CN=shop"),
        ("Shop, Inc.", "CN=Shop\\, Inc."),
        ("a+b", "CN=a\\+b"),
        ('say "hi"', 'CN=say \\"hi\\"'),
        ("a\\b", "CN=a\\\\b"),
        ("#1", "CN=\\#1"),
        ("a#1", "CN=a#1"),
        (" a ", "CN=\\ a\\ "),
        (" ", "CN=\\ "),
        ("a\\ ", "CN=a\\\\\\ "),
        ("a\nb", "CN=a\\0ab"),
        ("shop\0.evil", "CN=shop\\00.evil"),
        ("a,CN=admin", "CN=a\\,CN=admin"),
        ("Łódź", "CN=Łódź"),
    ],
)
def test_values_are_escaped(value: str, written: str) -> None:
    assert read((("commonName", value),)).subject == written


def test_the_most_specific_part_comes_first() -> None:
    found = read((("countryName", "DE"),), (("organizationName", "Example"),), (("commonName", "shop"), ("userId", "7")), (("1.2.3", "x"),))
    assert found.subject == "1.2.3=x,CN=shop+UID=7,O=Example,C=DE"
    assert found.common_name == "shop"


def test_the_last_of_several_common_names_counts() -> None:
    assert read((("commonName", "a"),), (("commonName", "b"),)).common_name == "b"


def test_names_are_kept_by_their_kind() -> None:
    names = (("DNS", "a.example"), ("URI", "spiffe://x/a"), ("IP Address", "10.0.0.1"), ("DNS", "b.example"), ("email", "a@b.example"))
    found = read(subjectAltName=names)
    assert (found.dns, found.uris, found.common_name, found.subject) == (("a.example", "b.example"), ("spiffe://x/a",), "", "")
    assert (found.serial, found.not_after) == ("0aff", 1893836083)


@pytest.mark.parametrize("scope", [{}, {"extensions": {}}, {"extensions": {"tls": {}}}, {"extensions": {"other": {}}}])
def test_without_a_certificate_there_is_none(scope: dict[str, Any]) -> None:
    assert certificate_of(scope) is None
