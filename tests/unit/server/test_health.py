from collections.abc import Iterator

import orjson
from starlette.applications import Starlette

from anabranch.server.health import Health, routes
from tests.support.asgi import ask


class Journal:
    """A part that may be in trouble."""

    trouble: str | None = None

    def notes(self) -> Iterator[str]:
        if self.trouble is not None:
            yield self.trouble


async def test_process_is_alive_even_when_not_ready() -> None:
    client = await ask(Starlette(routes=routes(Health())), "GET", "/livez")
    assert (client.status, orjson.loads(client.body)) == (200, {"status": "alive"})


async def test_process_is_ready_only_while_the_gateway_is_open() -> None:
    health = Health()
    app = Starlette(routes=routes(health))
    client = await ask(app, "GET", "/readyz")
    assert client.status == 503
    assert orjson.loads(client.body) == {"status": "not ready", "reasons": ["the gateway is starting"]}
    assert client.headers["cache-control"] == "no-store"
    for _ in range(2):
        async with health:
            client = await ask(app, "GET", "/readyz")
            assert (client.status, orjson.loads(client.body)) == (200, {"status": "ready", "reasons": []})
        assert (health.is_ready, list(health.reasons)) == (False, ["the gateway is stopping"])


async def test_process_that_drains_is_not_ready() -> None:
    async with Health() as health:
        health.stop()
        assert (health.is_ready, list(health.reasons)) == (False, ["the gateway is stopping"])


async def test_probe_takes_requests_away_for_as_long_as_it_gives_a_reason() -> None:
    said: list[str | None] = ["the upstream flights is unavailable"]
    async with Health() as health:
        health.watch(lambda: said[0])
        assert (health.is_ready, list(health.reasons)) == (False, ["the upstream flights is unavailable"])
        said[0] = None
        assert (health.is_ready, list(health.reasons)) == (True, [])


async def test_notes_are_asked_for_each_time_and_take_no_requests_away() -> None:
    journal = Journal()
    async with Health() as health:
        health.mention(journal)
        assert (health.is_ready, list(health.reasons)) == (True, [])
        journal.trouble = "the journal is not shipped"
        assert (health.is_ready, list(health.reasons)) == (True, ["the journal is not shipped"])
