"""A purge of a fleet, by the command: two gateways on one Valkey. That of several workers is in test_worker_admin.py."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import perf_counter
from uuid import uuid4

import httpx
from typer.testing import CliRunner, Result

from anabranch.cli.main import cli
from anabranch.main import assemble
from anabranch.settings import Settings
from anabranch.testing.scripted.upstream import ScriptedUpstream
from anabranch.testing.serving import LOOPBACK, serve
from tests.support.gateway import admin_port_of
from tests.support.valkey import ValkeyServer

DOCUMENT = """
version: 1
{store}
upstreams: {{a: {{url: "http://127.0.0.1:{port}"}}}}
endpoints:
  - path: /users/{{id}}
    steps: {{user: {{upstream: a, path: "/users/{{path.id}}", cache: {{ttl: 1h, tags: ["user-{{path.id}}"]}}}}}}
"""
ROUTES = {"*": {"json": {"name": "Ann"}}}
REACHED_S = 0.1
"""Within this every gateway has seen a purge."""


class Served:
    """A running gateway: `client` of it, `admin` of its admin server."""

    def __init__(self, client: httpx.AsyncClient, admin: httpx.AsyncClient) -> None:
        self.client = client
        self.admin = admin

    async def user(self, number: int) -> str:
        """Ask for a user; what the cache had to do with it."""
        answer = await self.client.get(f"/users/{number}")
        assert answer.status_code == 200
        return answer.headers["cache-status"]

    async def stored(self) -> list[str]:
        report = (await self.admin.get("/admin/cache")).json()
        return sorted(entry["path"] for entry in report["entries"])

    async def command(self, *arguments: str) -> Result:
        """The command, on a thread: it waits for this loop's gateways."""
        return await asyncio.to_thread(CliRunner().invoke, cli, ["cache", *arguments, "--url", str(self.admin.base_url)])


@asynccontextmanager
async def fleet(folder: Path, upstream: ScriptedUpstream, store: str) -> AsyncIterator[list[Served]]:
    path = folder / "gateway.yaml"
    path.write_text(DOCUMENT.format(store=store, port=upstream.port), "utf-8")
    async with AsyncExitStack() as exits:
        served = []
        for _ in range(2):
            process = assemble(Settings(document=path, reload="off", access_log="off", admin_port=0))
            port = await exits.enter_async_context(serve(process.app, process.protocol))
            clients = [httpx.AsyncClient(base_url=f"http://{LOOPBACK}:{one}", timeout=60) for one in (port, admin_port_of(process))]
            for client in clients:
                await exits.enter_async_context(client)
            served.append(Served(clients[0], clients[1]))
        yield served


async def until_gone(gateway: Served, path: str) -> float:
    """Wait until the memory of a gateway has no entry of this path. Returns the seconds that it took."""
    began = perf_counter()
    async with asyncio.timeout(30):
        while path in await gateway.stored():
            await asyncio.sleep(0.002)
    return perf_counter() - began


async def test_a_purge_reaches_both_gateways_on_one_store(tmp_path: Path, valkey: ValkeyServer) -> None:
    store = f"store: {{redis: {{url: '{valkey.url}', prefix: '{uuid4()}:'}}}}"
    async with ScriptedUpstream(ROUTES) as upstream, fleet(tmp_path, upstream, store) as (one, other):
        for number in (1, 2):
            for gateway in (one, other):
                await gateway.user(number)
        asked = len(upstream.hits)
        assert await one.stored() == await other.stored() == ["/users/1", "/users/2"]
        purged = await one.command("purge", "--tag", "user-1")
        took_s = await until_gone(other, "/users/1")
        assert (purged.exit_code, purged.output) == (0, "removed 1 stored answer, and told all gateways that share the store\n")
        assert took_s < REACHED_S
        assert await other.stored() == ["/users/2"]
        assert "uri-miss" in await other.user(1)
        assert len(upstream.hits) == asked + 1

        valkey.stop()
        alone = await one.command("purge", "--path", "/users/*")
        assert (alone.exit_code, alone.stdout) == (1, "removed 1 stored answer\n")
        assert "the shared store is away" in alone.stderr
        assert (await one.stored(), await other.stored()) == ([], ["/users/1", "/users/2"])
        valkey.start()
        # Purges may have been missed: what is shared with others is not trusted any more.
        await until_gone(other, "/users/2")
        assert await other.stored() == []


async def test_the_command_lists_what_is_stored(tmp_path: Path) -> None:
    async with ScriptedUpstream(ROUTES) as upstream, fleet(tmp_path, upstream, "") as (one, other):
        for number in (1, 2, 3):
            await one.user(number)
        shown = await one.command("ls", "--path", "/users/1", "--path", "/users/2", "--limit", "1")
        assert (shown.exit_code, "2 stored answers" in shown.output, "the 1 used last" in shown.output) == (0, True, True)
        report = json.loads((await one.command("ls", "--json", "--upstream", "a")).output)
        assert [(entry["path"], entry["tags"]) for entry in report["entries"]] == [
            (f"/users/{number}", [f"user-{number}"]) for number in (3, 2, 1)
        ]
        await one.client.get("/users/%1b%5b31m")
        shown = await one.command("ls", "--tag", "user-\x1b[31m")
        assert r"user-\x1b[31m" in shown.output.replace("\n", "")
        assert "\x1b" not in shown.output
        assert (await one.command("purge", "--path", "/users/%1B%5B31m")).output == "removed 1 stored answer\n"
        assert (await one.command("purge", "--all")).output == "removed 3 stored answers\n"
        assert json.loads((await other.command("purge", "--all", "--json")).output) == {"purged": 0, "shared": None, "complete": True}
        for arguments in ([], ["--all", "--tag", "x"]):
            assert (await one.command("purge", *arguments)).exit_code == 2
        refused = await one.command("purge", "--path", "users")
        assert (refused.exit_code, "begins with /" in refused.stderr) == (1, True)
