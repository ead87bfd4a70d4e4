"""What a web page can make a browser on the operator's machine send to the admin server, over real sockets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from anabranch.errors import ConfigError
from anabranch.main import assemble
from anabranch.settings import Settings, read_settings
from anabranch.testing.scripted.upstream import ScriptedUpstream
from anabranch.testing.serving import serve
from anabranch.testing.specs import client
from tests.support.gateway import admin_port_of

DOCUMENT = """\
version: 1
upstreams: {{a: {{url: "{url}"}}}}
endpoints: [{{path: /it, steps: {{s: {{upstream: a, path: /a}}}}}}]
"""
TOKEN = "correct horse battery staple"


class Admin:
    """An admin server. `upstream`: the service behind the gateway."""

    def __init__(self, port: int, upstream: ScriptedUpstream) -> None:
        self.port = port
        self.upstream = upstream

    async def ask(self, method: str, path: str, **headers: str) -> client.RawAnswer:
        """`headers`: `_` for a hyphen; PORT stands for the port."""
        fields = [(name.replace("_", "-"), value.replace("PORT", str(self.port))) for name, value in headers.items()]
        async with asyncio.timeout(30):
            return (await client.send(self.port, client.render(method, path, fields, None, port=self.port)))[0]


@asynccontextmanager
async def admin_server(folder: Path, **settings: Any) -> AsyncIterator[Admin]:
    async with ScriptedUpstream({"*": {"json": 1}}) as upstream:
        path = folder / "gateway.yaml"
        path.write_text(DOCUMENT.format(url=upstream.url), "utf-8")
        process = assemble(Settings(document=path, admin_port=0, access_log="off", reload="off", **settings))
        async with serve(process.app, process.protocol):
            yield Admin(admin_port_of(process), upstream)


@pytest.fixture
async def admin(tmp_path: Path) -> AsyncIterator[Admin]:
    async with admin_server(tmp_path) as running:
        yield running


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "http://127.0.0.1:1"},  # another port is another origin
        {"origin": "http://127.0.0.1"},
        {"origin": "http://localhost:PORT"},  # the same server by another name, which some other page may have
        {"origin": "null"},  # a sandboxed frame, a file, a redirect
        {"origin": " "},  # empty on the wire
        {"origin": "http://127.0.0.1:PORT, https://evil.example"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},  # a page on another port of the same machine
        {"sec_fetch_site": "cross-site", "origin": "http://127.0.0.1:PORT"},
        {"sec_fetch_site": "same-origin", "origin": "https://evil.example"},
    ],
)
async def test_page_of_another_origin_cannot_make_the_gateway_do_anything(admin: Admin, headers: dict[str, str]) -> None:
    for method, path in (("POST", "/admin/reload"), ("GET", "/admin/explain/it"), ("DELETE", "/admin/reload")):
        answer = await admin.ask(method, path, **headers)
        assert (answer.status, answer.get("content-type")) == (403, "application/problem+json"), (method, path)
        assert b"evil" not in answer.body
    assert b'"succeeded":0' in (await admin.ask("GET", "/admin/reload")).body
    assert admin.upstream.hits == []


@pytest.mark.parametrize(
    "headers",
    [
        {},  # curl
        {"origin": "http://127.0.0.1:PORT"},
        {"origin": "http://127.0.0.1:PORT", "sec_fetch_site": "same-origin"},
        {"sec_fetch_site": "none"},
        {"origin": "http://LOCALHOST:PORT", "host": "localhost:PORT"},
    ],
)
async def test_operator_can_use_a_terminal_and_pages_of_the_admin_server(admin: Admin, headers: dict[str, str]) -> None:
    assert (await admin.ask("POST", "/admin/reload", **headers)).status == 200
    assert (await admin.ask("GET", "/admin/explain/it", **headers)).status == 200


async def test_pages_of_other_origins_may_be_answered_what_they_cannot_read(admin: Admin) -> None:
    answer = await admin.ask("GET", "/admin/reload", origin="https://evil.example", sec_fetch_site="cross-site")
    assert (answer.status, answer.get("access-control-allow-origin")) == (200, None)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:PORT",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "notlocalhost",
        "10.9.8.7",
        "[fe80::1]",
        "0.0.0.0",
    ],
)
async def test_unknown_host_is_refused(admin: Admin, host: str) -> None:
    """DNS rebinding: the page's own name leads to this machine, so that the browser takes both for the same origin."""
    for method, path in (("GET", "/admin/reload"), ("GET", "/metrics"), ("GET", "/readyz"), ("POST", "/admin/reload"), ("GET", "/nothing")):
        answer = await admin.ask(method, path, host=host, origin=f"http://{host}", sec_fetch_site="same-origin")
        assert (answer.status, answer.get("content-type")) == (421, "application/problem+json"), (method, path)
        assert b"ANABRANCH_ADMIN_NAMES" in answer.body
        assert b"evil" not in answer.body


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:PORT",
        "gateway.localhost",
        "localhost.:PORT",
        "127.0.0.1",
        "127.9.9.9:PORT",
        "[::1]:PORT",
        "[::ffff:127.0.0.1]",
    ],
)
async def test_loopback_names_are_known(admin: Admin, host: str) -> None:
    assert (await admin.ask("GET", "/metrics", host=host)).status == 200


async def test_own_address_and_names_of_the_settings_are_known(tmp_path: Path) -> None:
    async with admin_server(tmp_path, admin_host="0.0.0.0", admin_names="Gateway.test., ops.test") as admin:
        for host in ("gateway.test", "OPS.test:9090", "127.0.0.1"):
            assert (await admin.ask("POST", "/admin/reload", host=host, origin=f"https://{host}")).status == 200, host
        for host in ("test", "x.ops.test"):
            assert (await admin.ask("GET", "/admin", host=host)).status == 421, host


async def test_token_is_proof_enough(tmp_path: Path) -> None:
    """No page has it, and `Authorization` cannot be sent to another origin without being allowed to."""
    async with admin_server(tmp_path, admin_token=TOKEN) as admin:
        foreign = {"host": "anabranch-admin.ns.svc:9090", "origin": "https://evil.example", "sec_fetch_site": "cross-site"}
        assert (await admin.ask("POST", "/admin/reload", **foreign)).status == 401
        assert (await admin.ask("POST", "/admin/reload", authorization=f"Bearer {TOKEN}", **foreign)).status == 200


async def test_request_without_host_is_of_no_browser(admin: Admin) -> None:
    async with asyncio.timeout(30):
        (answer,) = await client.send(admin.port, b"GET /metrics HTTP/1.0\r\n\r\n")
    assert answer.status == 200


@pytest.mark.parametrize("name", ["https://a.test", "a.test:9090", "*.a.test", "a test", "a.test/", "-a", "[::1]"])
def test_name_that_would_never_match_is_a_problem(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings(admin_names=name)
    assert "ANABRANCH_ADMIN_NAMES" in str(caught.value.problems[0])
    assert "is not a host name" in str(caught.value.problems[0])


async def test_date_of_responses_goes_on(admin: Admin) -> None:
    first = dict((await admin.ask("GET", "/metrics")).headers)["date"]
    async with asyncio.timeout(30):
        while dict((await admin.ask("GET", "/metrics")).headers)["date"] == first:
            await asyncio.sleep(0.1)
