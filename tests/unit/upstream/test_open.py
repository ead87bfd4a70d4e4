"""Which transport is built from which settings, and how unusable TLS files are reported."""

import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme

from anabranch.errors import MissingExtraError
from anabranch.plan.upstream import DEFAULT_TLS, UpstreamPlan
from anabranch.upstream.open import open_transport
from anabranch.upstream.redirect import Redirecting
from anabranch.upstream.stock import HTTPXTransport
from anabranch.upstream.tls import TLSContexts
from anabranch.upstream.wire import WireTransport
from tests.support.documents import upstream_plan


def upstream(**settings: Any) -> UpstreamPlan:
    return upstream_plan(**{"url": "http://service.example", **settings})


def test_wire_is_the_default_and_redirects_are_not_built() -> None:
    assert isinstance(open_transport(upstream()), WireTransport)


def test_httpx_is_built_when_configured() -> None:
    assert isinstance(open_transport(upstream(transport="httpx", http2=True, proxy="http://proxy.example:3128")), HTTPXTransport)


def test_redirects_are_built_when_configured() -> None:
    assert isinstance(open_transport(upstream(follow_redirects=2)), Redirecting)


def test_http2_without_its_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anabranch.upstream.open.find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match=r"anabranch\[http2\]"):
        open_transport(upstream(transport="httpx", http2=True))


def test_plain_upstreams_build_no_tls_context() -> None:
    contexts = TLSContexts()
    open_transport(upstream(), contexts)
    assert contexts._contexts == {}


def test_tls_contexts_are_shared_when_settings_are_equal(tmp_path: Path) -> None:
    contexts = TLSContexts()
    default = contexts.get(None)
    assert contexts.get(DEFAULT_TLS) is default
    assert contexts.get(replace(DEFAULT_TLS, server_name="other")) is default
    assert contexts.get(replace(DEFAULT_TLS, min_version="1.3")) is not default
    assert contexts.get(None, ("h2", "http/1.1")) is not default
    assert default.minimum_version == ssl.TLSVersion.TLSv1_2
    assert default.verify_mode == ssl.CERT_REQUIRED
    assert default.check_hostname


@pytest.mark.parametrize("field", ["ca", "cert"])
def test_unreadable_tls_file_is_named(tmp_path: Path, field: str) -> None:
    missing = tmp_path / "missing.pem"
    with pytest.raises(ValueError, match=rf"tls\.{field}.*missing\.pem cannot be read: No such file"):
        open_transport(upstream(url="https://service.example", tls={field: str(missing)}))


def test_tls_file_with_other_content_is_named(tmp_path: Path) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("hello")
    with pytest.raises(ValueError, match=r"tls\.ca: .*junk\.pem does not contain certificates in PEM form"):
        TLSContexts().get(replace(DEFAULT_TLS, ca=str(junk)))
    with pytest.raises(ValueError, match=r"tls\.cert and tls\.key: .*junk\.pem does not contain"):
        TLSContexts().get(replace(DEFAULT_TLS, cert=str(junk)))


def test_key_of_another_certificate_is_rejected(tmp_path: Path) -> None:
    authority = trustme.CA()
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    authority.issue_cert("a.example").cert_chain_pems[0].write_to_path(str(cert))
    authority.issue_cert("b.example").private_key_pem.write_to_path(str(key))
    with pytest.raises(ValueError, match="do not match"):
        TLSContexts().get(replace(DEFAULT_TLS, cert=str(cert), key=str(key)))


def test_key_without_certificate_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"tls\.key is set without tls\.cert"):
        TLSContexts().get(replace(DEFAULT_TLS, key="key.pem"))
