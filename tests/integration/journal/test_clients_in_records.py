"""Records of endpoints that refer to their clients, and their replay."""

import asyncio
from pathlib import Path

from typer.testing import CliRunner

from anabranch.cli.main import cli
from anabranch.journal.reader import records
from anabranch.testing.scripted.upstream import ScriptedUpstream
from tests.support.gateway import running_gateway

DOCUMENT = """
version: 1
auth:
  partners:
    api_key:
      keys: {{alice: {{sha256: 8fab151ebfe45da0ce0c2a951f8bba063f8668389b08a793acf59f301a6dbd57, metadata: {{email: a@example.org, plan: gold}}}}}}
defaults: {{auth: partners}}
upstreams: {{a: {{url: "{url}"}}}}
journal: {{durability: required, redact: {{paths: ["**.email"]}}}}
endpoints:
  - {{path: /mine, name: mine, steps: {{a: {{upstream: a, path: "/of/{{auth.sub}}", query: {{plan: "{{auth.claims.plan}}"}}}}}}, journal: {{bodies: steps}}}}
  - {{path: /all, name: all, steps: {{a: {{upstream: a, path: /all}}}}, journal: {{bodies: steps}}}}
"""


async def test_a_record_keeps_of_its_client_what_the_endpoint_refers_to(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    async with ScriptedUpstream({"/of/alice": {"json": {"n": 1}}, "/all": {"json": {}}}) as upstream:
        document = DOCUMENT.format(url=upstream.url)
        async with running_gateway(document, tmp_path, journal_path=folder) as gateway, gateway.client() as client:
            assert (await client.get("/mine", headers={"x-api-key": "k-alice"})).json() == {"a": {"n": 1}}
            assert (await client.get("/all", headers={"x-api-key": "k-alice"})).status_code == 200
            assert (await client.get("/mine", headers={"x-api-key": "k-other"})).status_code == 401
    by_endpoint = {(record.endpoint, record.status): record for record in records(folder)}
    kept = by_endpoint["mine", 200].request.principal
    assert kept is not None
    assert kept.to_bytes() == b'{"sub":"alice","name":"alice","via":"partners","claims":{"email":"***","plan":"gold"}}'
    assert by_endpoint["all", 200].request.principal is None
    assert by_endpoint["mine", 401].request.principal is None
    stored = b"".join(file.read_bytes() for file in folder.iterdir() if file.is_file())
    assert b"k-alice" not in stored
    result = await asyncio.to_thread(
        CliRunner().invoke, cli, ["replay", "--config", str(tmp_path / "gateway.yaml"), "--journal", str(folder)]
    )
    assert result.exit_code == 0, result.output
    assert "guard that is not asked again" in result.output
