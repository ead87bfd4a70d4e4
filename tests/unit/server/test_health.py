import orjson
from starlette.applications import Starlette

from anabranch.server.health import Health, routes
from tests.support.asgi import ask


async def test_process_is_alive_even_when_not_ready() -> None:
    health = Health()
    health.block("start", "starting")
    client = await ask(Starlette(routes=routes(health)), "GET", "/livez")
    assert (client.status, orjson.loads(client.body)) == (200, {"status": "alive"})


async def test_readiness_follows_the_reasons() -> None:
    health = Health()
    app = Starlette(routes=routes(health))
    health.block("drain", "the process is shutting down")
    client = await ask(app, "GET", "/readyz")
    assert client.status == 503
    assert orjson.loads(client.body) == {"status": "not ready", "reasons": ["the process is shutting down"]}
    assert client.headers["cache-control"] == "no-store"
    health.clear("drain")
    health.clear("drain")
    client = await ask(app, "GET", "/readyz")
    assert (client.status, orjson.loads(client.body)) == (200, {"status": "ready", "reasons": []})


def test_degraded_parts_are_listed_and_do_not_affect_readiness() -> None:
    health = Health()
    health.degrade("reload", "the document is not usable")
    assert (health.is_ready, list(health.reasons)) == (True, ["the document is not usable"])
    health.block("stop", "stopping")
    assert (health.is_ready, list(health.reasons)) == (False, ["stopping", "the document is not usable"])
    health.clear("stop")
    health.clear("reload")
    assert (health.is_ready, list(health.reasons)) == (True, [])


def test_mentions_are_evaluated_each_time_and_do_not_affect_readiness() -> None:
    health = Health()
    said: list[str | None] = [None]
    health.mention(lambda: said[0])
    assert (health.is_ready, list(health.reasons)) == (True, [])
    said[0] = "the journal is not shipped"
    assert (health.is_ready, list(health.reasons)) == (True, ["the journal is not shipped"])
