"""A gateway that answers from a journal: another gateway recorded it, and no service is running."""

from pathlib import Path

import pytest

from anabranch.errors import ConfigError
from anabranch.testing.scripted.upstream import ScriptedUpstream
from tests.support.gateway import running_gateway
from tests.support.recorded import answered, recorded, write_segment

DOCUMENT = """
version: 1
upstreams:
  a: {{url: "{url}"}}
  named: {{url: "http://no-such-host.invalid:80", dns_ttl: 5s}}
endpoints:
  - path: /x/{{id}}
    steps:
      one: {{upstream: a, path: "/one/{{path.id}}"}}
      other: {{upstream: a, path: /other, query: {{n: "{{one.n}}"}}}}
    journal: {{bodies: steps, durability: required}}
  - path: /named
    steps:
      it: {{upstream: named, path: /it, required: true}}
"""


async def test_recorded_requests_are_answered_without_any_service(tmp_path: Path) -> None:
    async with ScriptedUpstream({"/one/{id}": {"json": {"n": 7}}, "/other": {"json": [1.50, 2]}}) as upstream:
        document = DOCUMENT.format(url=upstream.url)
        async with running_gateway(document, tmp_path, journal_path=tmp_path / "journal") as gateway, gateway.client() as client:
            first = await client.get("/x/1")
            assert first.headers["gateway-complete"] == "?1"
    write_segment(tmp_path / "journal", [recorded("/named", b"", [answered("it", "named", "/it", b'"here"')])], worker="a" * 10)
    files = sorted(path.name for path in (tmp_path / "journal").iterdir())
    async with running_gateway(document, tmp_path, from_journal=tmp_path / "journal") as gateway, gateway.client() as client:
        again = await client.get("/x/1")
        assert (again.status_code, again.content) == (200, first.content)
        assert again.headers["gateway-complete"] == "?1"
        assert (await client.get("/named")).json() == {"it": "here"}
        unknown = await client.get("/x/2")
        assert unknown.status_code == 502
        assert unknown.json()["errors"][0]["detail"] == "the journal has no answer from a to GET /one/2"
    assert sorted(path.name for path in (tmp_path / "journal").iterdir()) == files


async def test_a_missing_journal_or_one_without_answers_is_rejected(tmp_path: Path) -> None:
    document = DOCUMENT.format(url="http://127.0.0.1:1")
    with pytest.raises(ConfigError, match="cannot be read: No such file or directory"):
        async with running_gateway(document, tmp_path, from_journal=tmp_path / "nowhere"):
            pass
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="contains no upstream answers"):
        async with running_gateway(document, tmp_path, from_journal=tmp_path / "empty"):
            pass
