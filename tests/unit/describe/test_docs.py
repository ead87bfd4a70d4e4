import hashlib
import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from anabranch.edge.app import build_app
from anabranch.edge.dataplane import DataPlane
from anabranch.engine.outcome import Result
from tests.support.asgi import ask


async def run(*_: object) -> Result:
    raise AssertionError("no page runs an endpoint")


APP = build_app(plane=DataPlane(lambda _: run))
STATIC = files("anabranch.describe") / "static"


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "spec-url")]


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
async def test_page_and_all_its_resources_are_served_by_the_gateway(page: str) -> None:
    client = await ask(APP, "GET", page)
    assert (client.status, client.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"//" not in client.body
    links = Links()
    links.feed(client.body.decode())
    assert "openapi.json" in links.found
    for link in {*links.found} - {"openapi.json"}:
        assert (await ask(APP, "GET", f"/{link}")).status == 200, link


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
async def test_content_security_policy_blocks_requests_to_other_hosts(page: str) -> None:
    policy = (await ask(APP, "GET", page)).headers["content-security-policy"]
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["default-src"] == "'none'"
    for name, sources in directives.items():
        assert set(sources.split()) <= {"'none'", "'self'", "'unsafe-inline'", "data:", "blob:"}, name
    assert directives["script-src"] == directives["connect-src"] == "'self'"


def test_vendored_files_match_their_recorded_digests() -> None:
    recorded = dict(re.findall(r"^\| `([^`]+)` \| `([0-9a-f]{64})` \|$", (STATIC / "README.md").read_text(), re.MULTILINE))
    found = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in STATIC.iterdir() if file.name != "README.md"}
    assert found == recorded


def test_vendored_pages_load_nothing_from_a_cdn() -> None:
    for name in ("redoc.standalone.js", "swagger-ui-bundle.js", "swagger-ui.css"):
        text = (STATIC / name).read_text()
        for host in ("cdn.", "fonts.googleapis", "fonts.gstatic", "unpkg.com", "jsdelivr", "otel."):
            assert not re.search(rf"https?://[a-z.-]*{re.escape(host)}", text), (name, host)


async def test_files_are_cached_and_revalidated_without_a_body() -> None:
    first = await ask(APP, "GET", "/docs/static/swagger-ui.css")
    assert first.headers["content-type"] == "text/css; charset=utf-8"
    assert "max-age" in first.headers["cache-control"]
    again = await ask(APP, "GET", "/docs/static/swagger-ui.css", headers={"if-none-match": f'"other", W/{first.headers["etag"]}'})
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", first.headers["etag"])


async def test_files_have_the_correct_content_type() -> None:
    for name, media_type in (("swagger-ui-bundle.js", "text/javascript; charset=utf-8"), ("favicon-32x32.png", "image/png")):
        assert (await ask(APP, "GET", f"/docs/static/{name}")).headers["content-type"] == media_type


async def test_other_files_are_not_found() -> None:
    for name in ("README.md", "..%2F..%2Fdocs.py", "nothing.js"):
        assert (await ask(APP, "GET", f"/docs/static/{name}")).status == 404
