"""Tokens verified by whole gateways: authorities on real sockets, TLS, and reloads."""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import trustme

from anabranch.config.auth.introspection import Introspection
from anabranch.guard.auth.introspection import build
from anabranch.guard.tools import Tools
from anabranch.main import Process, assemble
from anabranch.settings import Settings
from anabranch.testing.scripted.upstream import ScriptedUpstream
from anabranch.testing.serving import LOOPBACK, serve
from tests.support.authority import bearing
from tests.support.leaks import no_leaks
from tests.support.tokens import P256, jwks, public, sign

DOCUMENT = """
version: 1
auth: {users: {jwt: %s}}
upstreams: {a: {url: "http://127.0.0.1:%d"}}
endpoints:
  - {path: /it, auth: users, timeout: 20s, steps: {a: {upstream: a, path: /a, timeout: 10s}}}
"""
KEYS = json.loads(jwks())
NEW_KEYS = json.loads(jwks(public(P256, kid="k2")))


def token(issuer: str = "https://id.example/", **header: str) -> dict[str, str]:
    said: dict[str, object] = {"iss": issuer, "aud": "shop", "sub": "alice", "exp": time.time() + 3600}
    signed = sign(said, P256, alg="ES256", kid="k2") if header else sign(said)
    return {"authorization": f"Bearer {signed}"}


@asynccontextmanager
async def gateway(folder: Path, jwt: str, upstream: ScriptedUpstream) -> AsyncIterator[tuple[Process, httpx.AsyncClient]]:
    path = folder / "gateway.yaml"
    path.write_text(DOCUMENT % (jwt, upstream.port), "utf-8")
    process = assemble(Settings(document=path, reload="off"))
    async with serve(process.app, process.protocol) as port, httpx.AsyncClient(base_url=f"http://{LOOPBACK}:{port}", timeout=60) as client:
        yield process, client


async def test_the_keys_of_an_issuer_are_found_and_its_rotation_is_followed(tmp_path: Path) -> None:
    async with no_leaks(), ScriptedUpstream({"/a": {"json": {}}, "/keys": {"json": KEYS}}) as services:
        issuer = f"http://127.0.0.1:{services.port}/tenant/"
        services.on(
            "/tenant/.well-known/openid-configuration", {"json": {"issuer": issuer, "jwks_uri": f"http://127.0.0.1:{services.port}/keys"}}
        )
        async with gateway(tmp_path, f"{{issuer: '{issuer}', audience: shop}}", services) as (_, client):
            assert (await client.get("/it", headers=token(issuer))).status_code == 200
            services.on("/keys", {"json": NEW_KEYS})

            found = await asyncio.gather(*(client.get("/it", headers=token(issuer, kid="k2")) for _ in range(20)))
            assert {answer.status_code for answer in found} == {200}
            assert (await client.get("/it", headers=token(issuer))).status_code == 401
            assert services.counts["/keys"] == 2


async def test_an_authority_with_a_certificate_of_its_own(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with ScriptedUpstream({"/keys": {"json": KEYS}}, ssl=context) as keys, ScriptedUpstream({"/a": {"json": {}}}) as services:
        url = f"https://127.0.0.1:{keys.port}/keys"
        async with gateway(tmp_path, f"{{audience: shop, jwks_url: '{url}', tls: {{ca: ca.pem}}}}", services) as (process, client):
            assert (await client.get("/it", headers=token())).status_code == 200
            assert str(tmp_path / "ca.pem") in process.reloader.service.files
        async with gateway(tmp_path, f"{{audience: shop, jwks_url: '{url}'}}", services) as (_, client):
            assert (await client.get("/it", headers=token())).status_code == 503
            ready = await client.get("/readyz")
            assert ready.status_code == 200
            assert "the keys of authentication users cannot be fetched (the certificate" in ready.json()["reasons"][0]


async def test_a_file_of_keys_is_read_again_at_a_reload(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps(KEYS))
    async with (
        ScriptedUpstream({"/a": {"json": {}}}) as services,
        gateway(tmp_path, "{audience: shop, jwks_file: keys.json}", services) as (
            process,
            client,
        ),
    ):
        assert str(file) in process.reloader.service.files
        assert (await client.get("/it", headers=token())).status_code == 200

        file.write_text("{}")
        assert (await process.reloader.reload("test")).is_failed
        assert "auth.users.jwt.jwks_file: the file has no usable keys" in str(process.reloader.state.problems[0])
        assert (await client.get("/it", headers=token())).status_code == 200

        file.write_text(json.dumps(NEW_KEYS))
        assert not (await process.reloader.reload("test")).is_failed
        assert (await client.get("/it", headers=token())).status_code == 401
        assert (await client.get("/it", headers=token(kid="k2"))).status_code == 200


async def test_an_outage_of_the_authority_over_a_reload_keeps_nobody_out(tmp_path: Path) -> None:
    async with ScriptedUpstream({"/a": {"json": {}}, "/keys": {"json": KEYS}}) as services:
        jwt = f"{{audience: shop, jwks_url: 'http://127.0.0.1:{services.port}/keys'}}"
        async with gateway(tmp_path, jwt, services) as (process, client):
            assert (await client.get("/it", headers=token())).status_code == 200
            services.on("/keys", {"status": 503})
            assert not (await process.reloader.reload("test")).is_failed

            assert (await client.get("/it", headers=token())).status_code == 200


async def test_an_authority_that_closes_idle_connections_is_no_outage() -> None:
    async with ScriptedUpstream({"routes": {"/i": {"json": {"active": True, "sub": "alice"}}}, "close_idle_s": 0.002}) as authority:
        source = Introspection.model_validate(
            {"url": f"http://{LOOPBACK}:{authority.port}/i", "client_id": "c", "client_secret": "s", "cache": "0s"}
        )
        async with build("opaque", source, Tools()) as opaque:
            for index in range(100):
                assert await opaque.authenticate(bearing(f"t{index}")) is not None
                await asyncio.sleep(0.0019)
