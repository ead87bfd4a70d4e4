"""TLS to upstreams: trust, error messages, client certificates, server names, versions, and aborts."""

import asyncio
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import trustme

from anabranch.errors import ConnectTimeout, TLSError, UpstreamError, UpstreamTimeout
from tests.support.dns import Zone
from tests.support.rig import Caller, Rig
from tests.support.scripted import ScriptedUpstream

OK = {"json": {"ok": True}}


class Authority:
    """A certificate authority with its PEM file."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.ca = trustme.CA()
        self.file = folder / f"{name}.pem"
        self.ca.cert_pem.write_to_path(str(self.file))

    def server(self, *names: str, **options: Any) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(*names, **options).configure_cert(context)
        return context


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"))


async def serve(rig: Rig, context: ssl.SSLContext, spec: dict[str, Any] | None = None, **tls: Any) -> tuple[ScriptedUpstream, Caller]:
    upstream = await rig.serve(spec or {"*": OK}, ssl=context)
    return upstream, rig.caller(upstream.url, tls=tls)


async def refused(caller: Caller, reason: str) -> None:
    for _ in range(2):
        with pytest.raises(TLSError, match=reason) as caught:
            await caller.ask(within_s=30.0)
        assert "127.0.0.1" not in caught.value.detail
        assert "localhost" not in caught.value.detail


async def test_configured_ca_is_trusted_and_the_connection_is_kept(rig: Rig, authority: Authority) -> None:
    upstream, caller = await serve(rig, authority.server("127.0.0.1"), ca=str(authority.file))
    for _ in range(5):
        assert (await caller.ask()).body == b'{"ok": true}'
    assert upstream.accepted == 1


async def test_large_bodies_pass_in_both_directions(rig: Rig, authority: Authority) -> None:
    upstream, caller = await serve(rig, authority.server("127.0.0.1"), {"*": {"size": 3_000_000}}, ca=str(authority.file))
    for _ in range(2):
        assert len((await caller.ask(method="POST", body=b"y" * 3_000_000)).body) == 3_000_000
    assert len(upstream.hits[1].body) == 3_000_000
    assert upstream.accepted == 1


async def test_unknown_ca_is_rejected(rig: Rig, authority: Authority) -> None:
    upstream, caller = await serve(rig, authority.server("127.0.0.1"))
    await refused(caller, "issuer is not trusted|self-signed")
    assert upstream.hits == []


async def test_self_signed_certificate_is_rejected(rig: Rig, stranger: Authority, authority: Authority, tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pem = tmp_path / "self.pem"
    pem.write_bytes(stranger.ca.cert_pem.bytes() + stranger.ca.private_key_pem.bytes())
    context.load_cert_chain(pem)
    _, caller = await serve(rig, context, ca=str(authority.file))
    await refused(caller, "self-signed")


async def test_wrong_host_is_rejected(rig: Rig, authority: Authority) -> None:
    upstream, caller = await serve(rig, authority.server("other.example"), ca=str(authority.file))
    await refused(caller, "mismatch")
    assert upstream.hits == []


async def test_expired_certificate_is_rejected(rig: Rig, authority: Authority) -> None:
    context = authority.server("127.0.0.1", not_after=datetime.now(UTC) - timedelta(days=1))
    _, caller = await serve(rig, context, ca=str(authority.file))
    await refused(caller, "expired")


async def test_certificate_that_is_not_yet_valid_is_rejected(rig: Rig, authority: Authority) -> None:
    context = authority.server("127.0.0.1", not_before=datetime.now(UTC) + timedelta(days=1))
    _, caller = await serve(rig, context, ca=str(authority.file))
    await refused(caller, "not valid yet")


async def test_verification_can_be_disabled(rig: Rig, authority: Authority) -> None:
    _, caller = await serve(rig, authority.server("other.example"), verify=False)
    assert (await caller.ask()).status == 200


async def test_server_name_is_sent_and_verified_instead_of_the_host(rig: Rig, authority: Authority) -> None:
    context = authority.server("inner.example")
    asked: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    _, caller = await serve(rig, context, ca=str(authority.file), server_name="inner.example")
    assert (await caller.ask()).status == 200
    assert asked == ["inner.example"]


@pytest.mark.parametrize("named", [{}, {"server_name": "inner.example."}])
async def test_dot_that_ends_a_name_is_neither_sent_nor_verified(
    rig: Rig, authority: Authority, monkeypatch: pytest.MonkeyPatch, named: dict[str, str]
) -> None:
    """RFC 6066 section 3: a server name has no trailing dot. Certificates have none either."""
    Zone(monkeypatch).names["inner.example."] = ("127.0.0.1",)
    context = authority.server("inner.example")
    asked: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    upstream = await rig.serve({"*": OK}, ssl=context)
    caller = rig.caller(f"https://inner.example.:{upstream.port}", tls={"ca": str(authority.file), **named})
    assert (await caller.ask()).status == 200
    assert asked == ["inner.example"]
    assert upstream.hits[0].header("host") == f"inner.example:{upstream.port}"


async def test_http_1_is_offered_by_alpn(wire: Rig, authority: Authority) -> None:
    context = authority.server("127.0.0.1")
    context.set_alpn_protocols(["h2", "http/1.1"])
    upstream, caller = await serve(wire, context, ca=str(authority.file))
    await caller.ask()
    (connection,) = upstream._connections
    assert connection._transport is not None
    assert connection._transport.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_client_certificate_is_sent(rig: Rig, authority: Authority, tmp_path: Path, version: ssl.TLSVersion) -> None:
    context = authority.server("127.0.0.1")
    context.verify_mode = ssl.CERT_REQUIRED
    context.maximum_version = version
    authority.ca.configure_trust(context)
    client = authority.ca.issue_cert("gateway.example")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(b"".join(blob.bytes() for blob in client.cert_chain_pems))
    key.write_bytes(client.private_key_pem.bytes())
    upstream, caller = await serve(rig, context, ca=str(authority.file), cert=str(cert), key=str(key))
    assert (await caller.ask()).status == 200

    without = rig.caller(upstream.url, tls={"ca": str(authority.file)})
    with pytest.raises(UpstreamError):
        await without.ask()
    assert len(upstream.hits) == 1


async def test_missing_client_certificate_is_named_as_the_reason(rig: Rig, authority: Authority) -> None:
    """Uses a blocking server in a thread, because asyncio's server never sends the alert."""
    context = authority.server("127.0.0.1")
    context.verify_mode = ssl.CERT_REQUIRED
    authority.ca.configure_trust(context)

    def answer(listener: socket.socket) -> None:
        # Read to the end; otherwise the kernel would send a reset that overtakes the alert.
        with listener.accept()[0] as plain, plain.dup() as rest:
            with pytest.raises(ssl.SSLError):
                context.wrap_socket(plain, server_side=True)
            while rest.recv(4096):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        served = asyncio.create_task(asyncio.to_thread(answer, listener))
        caller = rig.caller(f"https://127.0.0.1:{listener.getsockname()[1]}", tls={"ca": str(authority.file)})
        with pytest.raises(UpstreamError) as caught:
            await caller.ask()
        await served
    assert isinstance(caught.value, TLSError)
    assert "client certificate" in caught.value.detail
    assert caught.value.may_be_processed


async def test_old_tls_versions_are_rejected(rig: Rig, authority: Authority) -> None:
    context = authority.server("127.0.0.1")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    _, caller = await serve(rig, context, ca=str(authority.file), min_version="1.3")
    await refused(caller, "TLS versions older|during the TLS handshake|handshake failed")  # asyncio's server sends no alert
    _, caller = await serve(rig, context, ca=str(authority.file))
    assert (await caller.ask()).status == 200


class Plain(asyncio.Protocol):
    """Answers a TLS ClientHello like a plain HTTP server."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        self.transport.close()


async def test_service_that_does_not_speak_tls_is_a_clear_reason(rig: Rig) -> None:
    server = await asyncio.get_running_loop().create_server(Plain, "127.0.0.1", 0)
    caller = rig.caller(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    await refused(caller, "does not speak TLS")
    server.close()


async def test_handshake_that_never_ends_is_ended_by_the_connect_timeout(rig: Rig) -> None:
    silent = await rig.serve({"*": OK})  # waits for the end of a plain request
    caller = rig.caller(silent.url.replace("http:", "https:"), connect_timeout="50ms")
    with pytest.raises(ConnectTimeout) as caught:
        await caller.ask()
    assert not caught.value.may_be_processed
    patient = rig.caller(silent.url.replace("http:", "https:"), connect_timeout="30s")
    task = asyncio.create_task(patient.ask())
    await silent.until(lambda record: record.accepted == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await silent.until(lambda record: record.open == 0)


async def test_cancelled_and_late_exchanges_close_their_connections(rig: Rig, authority: Authority) -> None:
    spec = {"/x": {"hang": True}, "/ok": OK}
    upstream, caller = await serve(rig, authority.server("127.0.0.1"), spec, ca=str(authority.file))
    for at in range(1, 11):
        task = asyncio.create_task(caller.ask("/x"))
        await upstream.until(lambda record, at=at: record.counts["/x"] == at)  # type: ignore[misc]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    with pytest.raises(UpstreamTimeout):
        await caller.ask("/x", within_s=0.05)
    await upstream.until(lambda record: record.open == 0)
    assert (await caller.ask("/ok")).status == 200


async def test_cancelled_during_the_handshake_at_every_turn(rig: Rig, authority: Authority) -> None:
    upstream, caller = await serve(rig, authority.server("127.0.0.1"), ca=str(authority.file), verify=True)
    for turns in range(0, 40, 1 if rig.is_wire else 4):
        task = asyncio.create_task(caller.ask())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert (await caller.ask()).status == 200
    await caller.transport.aclose()
    await upstream.until(lambda record: record.open == 0)


async def test_body_delimited_by_close_needs_a_tls_close_notify(wire: Rig, authority: Authority) -> None:
    """RFC 9112 section 9.8: without TLS's close_notify the body may be incomplete, and after a reset it certainly is."""
    upstream, caller = await serve(
        wire, authority.server("127.0.0.1"), {"/x": {"size": 10, "content_length": False, "reset": 5}, "/ok": OK}, ca=str(authority.file)
    )
    with pytest.raises(Exception, match=r"reset|closed"):
        await caller.ask("/x")
    assert (await caller.ask("/ok")).status == 200
    assert upstream.counts["/x"] == 1
