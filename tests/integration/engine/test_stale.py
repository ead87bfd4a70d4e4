"""`stale_if_error` through a whole gateway: what the client sees of an old answer."""

from pathlib import Path

from tests.support.gateway import running_gateway
from tests.support.scripted import ScriptedUpstream

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


async def test_an_old_answer_is_marked_and_belongs_to_who_got_it(tmp_path: Path) -> None:
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
