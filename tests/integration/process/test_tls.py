"""TLS of the public port, and clients that prove who they are by a certificate."""

import asyncio
import socket
import ssl
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from typer.testing import CliRunner

from anabranch.cli.main import cli
from anabranch.errors import ConfigError
from anabranch.main import assemble
from anabranch.server.tls import open_tls
from anabranch.settings import Settings
from anabranch.testing.scripted.upstream import ScriptedUpstream
from tests.support.gateway import Gateway, running_gateway

DOCUMENT = """
version: 1
auth: {{machines: {{mtls: {{subject: {subject}}}}}}}
upstreams: {{a: {{url: "{url}"}}}}
endpoints:
  - path: /mine
    auth: machines
    steps: {{a: {{upstream: a, path: /it}}}}
    response: {{body: "{{auth}}"}}
  - {{path: /open, steps: {{a: {{upstream: a, path: /it}}}}}}
"""


class Files:
    """A certificate authority, and what it has issued, as files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self.authority.cert_pem.write_to_path(str(self.ca))
        self.server = folder / "server.pem"
        self.issue_server()

    def issue_server(self) -> None:
        made = self.authority.issue_cert("127.0.0.1", "localhost")
        fresh = self.folder / "fresh.pem"
        fresh.write_bytes(made.private_key_pem.bytes() + b"".join(blob.bytes() for blob in made.cert_chain_pems))
        fresh.replace(self.server)

    def client(self, *names: str, authority: trustme.CA | None = None, common_name: str | None = None) -> Path:
        made = (authority or self.authority).issue_cert(*names, common_name=common_name)
        file = self.folder / "client.pem"
        file.write_bytes(made.private_key_pem.bytes() + b"".join(blob.bytes() for blob in made.cert_chain_pems))
        return file

    def context(self, client: Path | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca))
        if client is not None:
            context.load_cert_chain(client)
        return context


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"))


def url_of(gateway: Gateway, path: str) -> str:
    return f"https://127.0.0.1:{gateway.port}{path}"


async def get(gateway: Gateway, path: str, context: ssl.SSLContext, **options: Any) -> httpx.Response:
    async with httpx.AsyncClient(verify=context) as client:
        return await client.get(url_of(gateway, path), **options)


async def test_a_client_is_known_by_its_certificate(tmp_path: Path, files: Files) -> None:
    settings = {"tls_cert_file": files.server, "tls_client_cert": "optional", "tls_client_ca_file": files.ca}
    async with ScriptedUpstream({"/it": {"json": 1}}) as upstream:
        document = DOCUMENT.format(url=upstream.url, subject="dns")
        async with running_gateway(document, tmp_path, **settings) as gateway:
            answer = await get(gateway, "/mine", files.context(files.client("shop.example", common_name="The shop, Inc.")))
            assert answer.status_code == 200
            found = answer.json()
            assert (found["sub"], found["name"], found["via"]) == ("shop.example", "The shop, Inc.", "machines")
            assert found["claims"]["subject"].startswith("CN=The shop\\, Inc.,")
            assert found["claims"]["dns"] == ["shop.example"]
            assert len(found["claims"]["fingerprint"]) == 64
            refused = await get(gateway, "/mine", files.context())
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "ClientCertificate")
            assert (await get(gateway, "/open", files.context())).status_code == 200
            stranger = files.client("shop.example", authority=trustme.CA())
            with pytest.raises((httpx.ReadError, httpx.ConnectError, httpx.RemoteProtocolError)):
                await get(gateway, "/mine", files.context(stranger))
            nameless = await get(gateway, "/mine", files.context(files.client("shop@example.org")))
            assert (nameless.status_code, nameless.json()["detail"]) == (401, "the credential is not valid")
    assert {dict(hit.headers)["x-forwarded-proto"] for hit in upstream.hits} == {"https"}


async def test_required_certificates_are_required_of_everybody(tmp_path: Path, files: Files) -> None:
    settings = {"tls_cert_file": files.server, "tls_client_cert": "required", "tls_client_ca_file": files.ca}
    async with running_gateway(DOCUMENT.format(url="http://127.0.0.1:1", subject="dn"), tmp_path, **settings) as gateway:
        with pytest.raises((httpx.ReadError, httpx.ConnectError, httpx.RemoteProtocolError)):
            await get(gateway, "/livez", files.context())
        assert (await get(gateway, "/livez", files.context(files.client("x.example")))).status_code == 200


async def test_plain_requests_are_refused_and_others_go_on(tmp_path: Path, files: Files) -> None:
    async with (
        ScriptedUpstream({"/it": {"json": 1}}) as upstream,
        running_gateway(DOCUMENT.format(url=upstream.url, subject="dn"), tmp_path, tls_cert_file=files.server) as gateway,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(b"GET /open HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200" not in await reader.read()
        writer.close()
        async with httpx.AsyncClient(verify=files.context()) as client:
            answers = await asyncio.gather(*(client.get(url_of(gateway, "/open")) for _ in range(20)))
            assert {answer.status_code for answer in answers} == {200}
            large = await client.post(url_of(gateway, "/open"), content=b"x" * 200_000)
            assert large.status_code == 405


async def test_renewed_certificates_are_taken_up_and_broken_ones_are_not(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    tls = open_tls(Settings(tls_cert_file=files.server))
    assert tls is not None
    assert tls.context.minimum_version == ssl.TLSVersion.TLSv1_2
    before = await shown(tls.context)
    await tls.renew()
    assert await shown(tls.context) == before
    files.issue_server()
    await tls.renew()
    after = await shown(tls.context)
    assert after != before
    files.server.write_text("broken")
    await tls.renew()
    assert await shown(tls.context) == after
    assert "the old one stays in force: they are not a certificate and its key in PEM" in caplog.text
    files.issue_server()


async def test_renewals_do_not_disturb_clients_that_connect_meanwhile(files: Files) -> None:
    tls = open_tls(Settings(tls_cert_file=files.server))
    assert tls is not None
    connecting = asyncio.gather(*(shown(tls.context) for _ in range(60)))
    for _ in range(20):
        files.server.touch()
        await tls.renew()
        await asyncio.sleep(0)
    assert len(set(await connecting)) == 1


async def test_an_intermediate_authority_is_trusted_by_itself(tmp_path: Path, files: Files) -> None:
    intermediate = files.authority.create_child_ca()
    intermediate.cert_pem.write_to_path(str(tmp_path / "intermediate.pem"))
    settings = {"tls_cert_file": files.server, "tls_client_cert": "required", "tls_client_ca_file": tmp_path / "intermediate.pem"}
    async with running_gateway("version: 1\n", tmp_path, **settings) as gateway:
        assert (await get(gateway, "/livez", files.context(files.client("x.example", authority=intermediate)))).status_code == 200
        with pytest.raises((httpx.ReadError, httpx.ConnectError, httpx.RemoteProtocolError)):
            await get(gateway, "/livez", files.context(files.client("x.example")))


@pytest.mark.parametrize(("after", "before"), [(-2, -1), (1, 2)], ids=["expired", "not yet valid"])
@pytest.mark.parametrize("wanted", ["optional", "required"])
async def test_a_certificate_out_of_its_time_is_refused_at_the_handshake(
    tmp_path: Path, files: Files, wanted: str, after: int, before: int
) -> None:
    now = datetime.now(UTC)
    made = files.authority.issue_cert("x.example", not_before=now + timedelta(days=after), not_after=now + timedelta(days=before))
    client = tmp_path / "client.pem"
    client.write_bytes(made.private_key_and_cert_chain_pem.bytes())
    settings = {"tls_cert_file": files.server, "tls_client_cert": wanted, "tls_client_ca_file": files.ca}
    async with running_gateway("version: 1\n", tmp_path, **settings) as gateway:
        with pytest.raises((httpx.ReadError, httpx.ConnectError, httpx.RemoteProtocolError)):
            await get(gateway, "/livez", files.context(client))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_resumed_session_has_the_certificate_of_the_first_one(tmp_path: Path, files: Files, version: ssl.TLSVersion) -> None:
    settings = {"tls_cert_file": files.server, "tls_client_cert": "optional", "tls_client_ca_file": files.ca}
    context = files.context(files.client("shop.example"))
    context.maximum_version = version

    def ask(port: int, session: ssl.SSLSession | None) -> tuple[bytes, ssl.SSLSession | None, bool | None]:
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as client,
        ):
            client.sendall(b"GET /mine HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: client.recv(65536), b""))
            return answer, client.session, client.session_reused

    async with (
        ScriptedUpstream({"/it": {"json": 1}}) as upstream,
        running_gateway(DOCUMENT.format(url=upstream.url, subject="dns"), tmp_path, **settings) as gateway,
    ):
        first, session, _ = await asyncio.to_thread(ask, gateway.port, None)
        second, _, is_resumed = await asyncio.to_thread(ask, gateway.port, session)
    assert is_resumed
    assert b'"sub":"shop.example"' in first
    assert b'"sub":"shop.example"' in second


async def shown(context: ssl.SSLContext) -> bytes:
    """The certificate that a client sees."""
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        any_ = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        any_.check_hostname, any_.verify_mode = False, ssl.CERT_NONE
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=any_)
        der: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
    return der


@pytest.mark.parametrize(
    ("settings", "path", "message"),
    [
        ({"tls_key_file": "x"}, "TLS_KEY_FILE", "has no effect without ANABRANCH_TLS_CERT_FILE"),
        ({"tls_client_cert": "required"}, "TLS_CLIENT_CERT", "has no effect without"),
        ({"tls_cert_file": "nowhere.pem"}, "TLS_CERT_FILE", "cannot be used: No such file"),
        ({"tls_cert_file": "ca"}, "TLS_CERT_FILE", "cannot be used: they are not a certificate and its key"),
        ({"tls_cert_file": "server", "tls_key_file": "client"}, "TLS_CERT_FILE", "the key is not that of the certificate"),
        ({"tls_cert_file": "server", "tls_client_cert": "optional"}, "TLS_CLIENT_CA_FILE", "is missing"),
        ({"tls_cert_file": "server", "tls_client_ca_file": "ca"}, "TLS_CLIENT_CA_FILE", "has no effect"),
        (
            {"tls_cert_file": "server", "tls_client_cert": "optional", "tls_client_ca_file": "nowhere"},
            "TLS_CLIENT_CA_FILE",
            "cannot be read",
        ),
    ],
)
def test_settings_that_do_not_fit_are_one_sentence(files: Files, tmp_path: Path, settings: dict[str, str], path: str, message: str) -> None:
    named = {"ca": files.ca, "server": files.server, "client": files.client("x.example")}
    document = tmp_path / "gateway.yaml"
    document.write_text("version: 1\n")
    with pytest.raises(ConfigError) as refused:
        assemble(Settings(document=document, **{name: named.get(value, value) for name, value in settings.items()}))  # type: ignore[arg-type]
    (problem,) = refused.value.problems
    assert problem.path == f"ANABRANCH_{path}"
    assert message in problem.message


def test_a_document_with_certificates_says_that_none_are_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    document = tmp_path / "gateway.yaml"
    document.write_text("version: 1\nauth: {machines: {mtls: {}}}\n")
    assemble(Settings(document=document))
    assert "no client has a certificate for the authentication `machines`" in caplog.text


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "ANABRANCH_TLS_CLIENT_CERT: the authentication `machines` needs client certificates, and no connection asks for one"),
        (
            {"CERT_FILE": "gateway.yaml", "CLIENT_CERT": "optional", "CLIENT_CA_FILE": "ca.pem"},
            "ANABRANCH_TLS_CERT_FILE: the certificate and",
        ),
    ],
)
def test_a_gateway_that_could_know_no_client_does_not_start(
    tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch, workers: str, variables: dict[str, str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("anabranch.server.gc_tuning.pause", lambda: None)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("ca.pem").write_bytes(files.ca.read_bytes())
    Path("gateway.yaml").write_text("version: 1\nauth: {machines: {mtls: {}}}\n")
    named = {f"ANABRANCH_TLS_{name}": value for name, value in variables.items()}
    result = CliRunner().invoke(cli, ["run", "gateway.yaml", "--port", "0", "--workers", workers], env=named, prog_name="anabranch")
    assert result.exit_code == 3
    assert said in result.stderr
