"""Upstreams that restart under load, with kept-alive connections everywhere: no idempotent request fails."""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest

from anabranch.testing.scripted.upstream import ScriptedUpstream
from tests.support.eventually import eventually
from tests.support.gateway import running_gateway
from tests.support.load import closed_loop, under_load
from tests.support.tcp_proxy import TCPProxy

CLIENTS: Final = 12
BETWEEN: Final = 150
SERVICE_S: Final = 0.003

ENDPOINT: Final = """
endpoints:
  - path: /item
    timeout: 20s
    steps:
      item: {upstream: items, path: /, required: true}
"""


def service(name: str) -> dict[str, object]:
    return {"json": {"from": name}, "delay_s": SERVICE_S}


@pytest.mark.both_loops
async def test_graceful_handover_to_a_new_process_fails_no_request_and_empties_the_old_one(tmp_path: Path) -> None:
    """The new process accepts new connections; the old one answers its requests with `connection: close` and then exits."""
    names = ["first", "second", "third", "fourth"]
    async with AsyncExitStack() as exits:
        old = await exits.enter_async_context(ScriptedUpstream({"*": service(names[0])}))
        proxy = await exits.enter_async_context(TCPProxy(old.port))
        document = f"version: 1\nupstreams:\n  items: {{url: '{proxy.url}', connect_timeout: 20s, retry: {{attempts: 2}}}}\n{ENDPOINT}"
        gateway = await exits.enter_async_context(running_gateway(document, tmp_path))
        async with under_load(gateway.port, "/item", clients=CLIENTS) as load:
            await load.more(BETWEEN)
            for name in names[1:]:
                new = await exits.enter_async_context(ScriptedUpstream({"*": service(name)}))
                proxy.target = new.port
                old.on("*", {**service("old"), "headers": {"connection": "close"}})
                await old.until(lambda upstream: upstream.concurrent == 0)
                await old.stop()
                await load.more(BETWEEN)
                assert load.replies[-1].json == {"item": {"from": name}}
                old = new
        assert {reply.status for reply in load.replies} == {200}
        assert {reply.json["item"]["from"] for reply in load.replies} >= set(names)
        # The pool has recovered: it keeps connections to the last process, at most one for each client.
        assert 1 <= new.open <= CLIENTS
        assert new.accepted <= CLIENTS
        await eventually(lambda: proxy.open == new.open)


@pytest.mark.both_loops
async def test_upstream_that_keeps_closing_idle_connections_fails_no_request_without_retries(tmp_path: Path) -> None:
    """Provokes the race of RFC 9112 section 9.3.1 as often as possible: a request is sent while the peer closes."""
    async with ScriptedUpstream({"routes": {"*": service("it")}, "close_idle_s": 0.002}) as upstream:
        document = f"version: 1\nupstreams:\n  items: {{url: '{upstream.url}', connect_timeout: 20s}}\n{ENDPOINT}"
        async with running_gateway(document, tmp_path) as gateway, under_load(gateway.port, "/item", clients=CLIENTS) as load:
            await load.more(1000)
            # The machine determines how often the peer closes first: continue until it was often enough.
            for _ in range(100):
                if upstream.accepted > 5 * CLIENTS:
                    break
                await load.more(10 * CLIENTS)
        assert {reply.status for reply in load.replies} == {200}
        assert len(upstream.hits) == len(load.replies)
        # The upstream closed most connections while the gateway was using them.
        assert upstream.accepted > 5 * CLIENTS


@pytest.mark.both_loops
async def test_rolling_restart_of_instances_fails_no_request(tmp_path: Path) -> None:
    """Each instance in turn stops without notice, during exchanges, refuses connections for a while and returns at the same address."""
    names = ["one", "two", "three", "four"]
    async with AsyncExitStack() as exits:
        instances = [await exits.enter_async_context(ScriptedUpstream({"*": service(name)})) for name in names]
        urls = ", ".join(f"'{instance.url}'" for instance in instances)
        # At most half of the instances are ejected at a time, each for five seconds, so only half of them restart here.
        retry = "retry: {attempts: 3, backoff: 5ms, budget: 20%}"
        document = f"version: 1\nupstreams:\n  items: {{urls: [{urls}], connect_timeout: 20s, {retry}}}\n{ENDPOINT}"
        async with running_gateway(document, tmp_path) as gateway:
            async with under_load(gateway.port, "/item", clients=CLIENTS) as load:
                await load.more(BETWEEN)
                for instance in instances[:2]:
                    port = instance.port
                    await instance.stop(keeps_port=True)
                    await load.more(BETWEEN)
                    await instance.start(port)
                    await load.more(BETWEEN)
            failed = [reply.json["errors"] for reply in load.replies if reply.status != 200]
            assert not failed, f"{len(failed)} of {len(load.replies)} requests failed, first by {failed[0]}"
            await eventually(lambda: all(instance.open <= CLIENTS for instance in instances))


async def test_restart_is_detected_on_idle_connections_before_they_are_used(tmp_path: Path) -> None:
    """Without retries: by then the gateway has noticed that its kept-alive connections are closed."""
    async with ScriptedUpstream({"*": service("it")}) as upstream:
        document = f"version: 1\nupstreams:\n  items: {{url: '{upstream.url}', connect_timeout: 20s}}\n{ENDPOINT}"
        async with running_gateway(document, tmp_path) as gateway:
            for _ in range(3):
                replies = await closed_loop(gateway.port, "/item", clients=CLIENTS, requests=CLIENTS * 2)
                assert {reply.status for reply in replies} == {200}
                port = upstream.port
                await upstream.stop(keeps_port=True)
                await upstream.start(port)
                assert upstream.open == 0
