"""`stale_if_error` through a complete gateway: what the client sees of a stale answer."""

import asyncio
from pathlib import Path

from anabranch.journal.reader import records
from anabranch.testing.scripted.upstream import ScriptedUpstream
from tests.support.gateway import running_gateway

DOCUMENT = """
version: 1
upstreams: {{a: {{url: "{url}", forward_headers: [authorization]}}}}
endpoints:
  - path: /x
    steps:
      one: {{upstream: a, path: /one, stale_if_error: 1h, required: true}}
      two: {{upstream: a, path: /two, stale_if_error: 1h}}
      three: {{upstream: a, path: /three}}
"""


async def test_a_stale_answer_is_marked_and_served_only_to_its_principal(tmp_path: Path) -> None:
    upstream = ScriptedUpstream({"/one": [{"json": 1}, {"status": 503}], "/two": [{"json": 2}, {"reset": "answer"}], "/three": {"json": 3}})
    async with upstream, running_gateway(DOCUMENT.format(url=upstream.url), tmp_path) as gateway, gateway.client() as client:
        mine = {"authorization": "mine"}
        first = await client.get("/x", headers=mine)
        assert first.headers["gateway-complete"] == "?1"
        assert "cache-status" not in first.headers
        assert "age" not in first.headers
        again = await client.get("/x", headers=mine)
        assert (again.status_code, again.json()) == (200, {"one": 1, "two": 2, "three": 3})
        assert again.headers["gateway-complete"] == "?0"
        assert again.headers["age"] == "0"
        assert again.headers["cache-status"] == (
            'anabranch;hit;detail=stale-if-error;key="one", anabranch;hit;detail=stale-if-error;key="two"'
        )
        assert again.headers["server-timing"].count('desc="stale"') == 2
        assert "proxy-status" not in again.headers
        other = await client.get("/x", headers={"authorization": "somebody else"})
        assert other.status_code == 502
        assert "cache-status" not in other.headers


RESTORED = """
version: 1
upstreams: {{a: {{url: "{url}", headers: {{x-key: {key}}}}}}}
endpoints:
  - path: /x/{{id}}
    steps: {{one: {{upstream: a, path: "/one/{{path.id}}", stale_if_error: 1h, pick: [n]}}}}
    journal: {{bodies: steps, durability: required}}
"""


async def test_after_a_restart_stale_answers_come_from_the_journal(tmp_path: Path) -> None:
    """But not answers to other credentials of the document, and not stale answers as if they were fresh."""
    upstream = ScriptedUpstream({"/one/{id}": [{"json": {"n": 1, "m": 2}}, {"status": 500}]})
    async with upstream:
        document = RESTORED.format(url=upstream.url, key="k1")
        journal = tmp_path / "journal"
        async with running_gateway(document, tmp_path, journal_path=journal) as gateway, gateway.client() as client:
            client.headers["host"] = "gateway.test"  # services are told of it, so it belongs to what an answer is for
            assert (await client.get("/x/1")).headers["gateway-complete"] == "?1"
            assert (await client.get("/x/1")).headers["gateway-complete"] == "?0"
        async with running_gateway(document, tmp_path, journal_path=journal) as gateway, gateway.client() as client:
            client.headers["host"] = "gateway.test"
            async with asyncio.timeout(30):
                while (answer := await client.get("/x/1")).status_code != 200:
                    await asyncio.sleep(0.01)
            assert answer.json() == {"one": {"n": 1}}
            assert answer.headers["cache-status"] == 'anabranch;hit;detail=stale-if-error;key="one"'
            assert (await client.get("/x/2")).status_code == 502
        other = RESTORED.format(url=upstream.url, key="k2")
        async with running_gateway(other, tmp_path, journal_path=journal) as gateway, gateway.client() as client:
            client.headers["host"] = "gateway.test"
            for _ in range(5):
                assert (await client.get("/x/1")).status_code == 502
                await asyncio.sleep(0.05)
        fresh = [step for record in records(journal) for step in record.steps if step.status == 200 and step.age_s is None]
        assert len(fresh) == 1
