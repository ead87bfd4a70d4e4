"""Limits that gateways share in a real Valkey, and rules around routes in Python."""

import asyncio
import time
from pathlib import Path

from tests.support.gateway import running_gateway
from tests.support.valkey import ValkeyServer

DOCUMENT = """
version: 1
upstreams: {{a: {{url: "http://127.0.0.1:9"}}}}
store: {{redis: {{url: "{url}", timeout: 200ms, prefix: "{prefix}:"}}}}
rate_limits:
  fleet: {{rate: 5/1h, by: [header.x-tenant], store: shared}}
  day: {{quota: 100/1d, store: shared}}
  strict: {{rate: 5/1h, store: shared, when_store_is_away: deny}}
endpoints:
  - {{path: /a, rate_limits: [fleet, day], steps: {{a: {{upstream: a, path: /a, default: 1}}}}, response: {{body: {{a: 1}}}}}}
  - {{path: /b, rate_limits: strict, steps: {{a: {{upstream: a, path: /a, default: 1}}}}, response: {{body: {{a: 1}}}}}}
"""


async def test_gateways_count_together_whatever_the_order(valkey: ValkeyServer, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    text = DOCUMENT.format(url=valkey.url, prefix="together")
    async with (
        running_gateway(text, tmp_path / "one") as one,
        running_gateway(text, tmp_path / "two") as two,
        one.client() as first,
        two.client() as second,
    ):
        while (await first.get("/a", headers={"x-tenant": "warm"})).headers.get("ratelimit") is None:
            pass
        while (await second.get("/a", headers={"x-tenant": "warm"})).headers.get("ratelimit") is None:
            pass
        answers = await asyncio.gather(*(client.get("/a", headers={"x-tenant": "t"}) for client in (first, second) * 6))
        rejected = [answer for answer in answers if answer.status_code == 429]
        assert len(rejected) == 7
        assert all(1 <= int(answer.headers["retry-after"]) <= 720 for answer in rejected)
        assert (await first.get("/a", headers={"x-tenant": "u"})).headers["ratelimit"].startswith('"fleet";r=4;t=720, "day";r=')


async def test_no_request_waits_for_a_store_that_is_away(valkey: ValkeyServer, tmp_path: Path) -> None:
    text = DOCUMENT.format(url=valkey.url, prefix="away")
    async with running_gateway(text, tmp_path) as gateway, gateway.client() as client:
        while (await client.get("/b")).status_code == 503:
            pass
        valkey.stop()
        try:
            await client.get("/b")
            began = time.monotonic()
            denied = await client.get("/b")
            allowed = [await client.get("/a") for _ in range(8)]
            assert time.monotonic() - began < 2
            assert (denied.status_code, denied.headers["retry-after"], denied.json()["type"]) == (503, "1", "/problems/unavailable")
            assert {answer.status_code for answer in allowed} <= {200, 502}
            assert all("ratelimit" not in answer.headers for answer in allowed)
            metrics = (await client.get("/metrics")).text
            assert 'anabranch_rate_limit_unchecked_total{limit="fleet"} 8.0' in metrics
        finally:
            valkey.start()


async def test_rules_hold_for_routes_in_python_and_unknown_paths_but_not_for_own_pages(tmp_path: Path) -> None:
    text = """
version: 1
upstreams: {a: {url: "http://127.0.0.1:9"}}
rules: [{deny: '{header.user-agent} matches "bot"'}]
routers: ["tests.support.fan_routes:router"]
"""
    async with running_gateway(text, tmp_path) as gateway, gateway.client() as client:
        for path in ("/own-response", "/nothing", "/nothing?_explain=true"):
            refused = await client.get(path, headers={"user-agent": "a bot"})
            assert (refused.status_code, refused.json()["type"]) == (403, "/problems/forbidden")
            assert (await client.get(path)).status_code != 403
        for path in ("/livez", "/metrics", "/openapi.json", "/problems/forbidden"):
            assert (await client.get(path, headers={"user-agent": "a bot"})).status_code == 200
        assert 'anabranch_rule_refused_total{rule="0"} 3.0' in (await client.get("/metrics")).text
