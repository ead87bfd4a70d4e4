"""No answer ever reaches another principal: whole gateways, random requests through everything that shares.

ANABRANCH_FUZZ=10000 makes it long.
"""

import asyncio
import os
import random
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from anabranch.cache.keys import key_of as original
from anabranch.core.exchange import Address, Answer, Request
from anabranch.errors import ConnectError
from anabranch.main import assemble
from anabranch.policy import coalesce
from anabranch.settings import Settings

REQUESTS = int(os.environ.get("ANABRANCH_FUZZ", "1500"))
CLIENTS = max(20, REQUESTS // 20)
SECONDS = {
    "fresh": "max-age=60",
    "stale": "max-age=0, stale-while-revalidate=60",
    "fails": "max-age=0, stale-if-error=60",
    "own": "private",
}
DOCUMENT = """
version: 1
auth:
  partners: {{api_key: {{keys: {keys}}}}}
  machines: {{api_key: {{header: x-machine, keys: {keys}}}}}
upstreams: {{a: {{url: "http://a"}}}}
defaults: {{auth: [partners, machines], timeout: 20s}}
endpoints:
  - path: /mine/{{kind}}
    steps: {{a: {{upstream: a, path: "/of/{{path.kind}}", headers: {{x-who: "{{auth.via}} {{auth.sub}}"}}, cache: {{}}, coalesce: true}}}}
    response: {{cache: true}}
  - path: /blind/{{kind}}
    steps: {{a: {{upstream: a, path: "/blind/{{path.kind}}", cache: {{}}, coalesce: true}}}}
  - path: /lists/{{kind}}
    steps:
      ids: {{upstream: a, path: "/ids/{{path.kind}}", headers: {{x-who: "{{auth.via}} {{auth.sub}}"}}, hidden: true}}
      many:
        {{upstream: a, path: "/many", query: {{ids: {{value: "{{batch}}", style: comma}}}}, headers: {{x-who: "{{auth.via}} {{auth.sub}}"}}, each: "{{ids}}",
         batch: {{size: 50, key: "{{item}}", match: id, window: 5ms}}}}
  - path: /public
    steps: {{a: {{upstream: a, path: /public, cache: {{scope: public}}}}}}
"""


class Service:
    """Says for whom it was asked. `blind`: how often it was asked for something that says nothing of the client, by the client's turn."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.calls: Counter[str] = Counter()

    async def exchange(self, request: Request, address: Address, deadline: float) -> Answer:
        path, _, query = request.target.partition("?")
        _, what, *kind = path.split("/")
        self.calls[what] += 1
        number = self.calls[what]
        who = next((value.decode() for name, value in request.extra if name == b"x-who"), "")
        await asyncio.sleep(self._chance.choice((0, 0, 0.001)))
        if kind == ["fails"] and self._chance.random() < 0.5:
            raise ConnectError("away")
        control = SECONDS.get(kind[0] if kind else "fresh", "max-age=60")
        if what == "ids":
            return answer(b"[1,2,3]", "no-store")
        if what == "many":
            ids = query.removeprefix("ids=").replace("%2C", ",").split(",")
            return answer(("[" + ",".join(f'{{"id":{id_},"who":"{who}"}}' for id_ in ids) + "]").encode(), "no-store")
        return answer(f'{{"who":"{who}","n":{number}}}'.encode(), control)

    async def aclose(self) -> None: ...


def answer(body: bytes, control: str) -> Answer:
    return Answer(200, [(b"content-type", b"application/json"), (b"cache-control", control.encode())], body)


async def mixed(folder: Path, requests: int) -> tuple[list[str], Service]:
    """Random requests of many clients at once. Returns what reached somebody else, and the service."""
    chance = random.Random(7)
    names = [f"c{number}" for number in range(CLIENTS)]
    keys = "{" + ", ".join(f"{name}: {{sha256: {sha256(name.encode()).hexdigest()}}}" for name in names) + "}"
    document = folder / "gateway.yaml"
    document.write_text(DOCUMENT.format(keys=keys))
    service = Service(chance)
    app = assemble(Settings(document=document, reload="off", metrics=False, access_log="off"), stand_in=lambda _: service).app
    wrong: list[str] = []
    owners: dict[str, str] = {}
    tags: list[str] = []

    async def one(client: httpx.AsyncClient) -> None:
        name, via = chance.choice(names), chance.choice(("partners", "machines"))
        who = f"{via} {name}"
        headers = {"x-api-key" if via == "partners" else "x-machine": name}
        path = chance.choice(
            ("/mine/fresh", "/mine/stale", "/mine/fails", "/mine/own", "/blind/fresh", "/blind/stale", "/lists/x", "/public")
        )
        if tags and chance.random() < 0.3:
            headers["if-none-match"] = chance.choice(tags)
        response = await client.get(path, headers=headers)
        if tag := response.headers.get("etag"):
            tags.append(tag)
        if response.status_code == 304:
            if path.startswith("/mine") and owners.get(response.headers["etag"]) != who:
                wrong.append(f"304 to {who} for what {owners.get(response.headers['etag'])} has got")
            return
        body: Any = response.json()
        if path.startswith("/mine") and response.status_code == 200 and body["a"] is not None:
            if tag:
                owners[tag] = who
            if body["a"]["who"] != who:
                wrong.append(f"{path}: {body['a']['who']} to {who}")
            if not {"private", "no-store"} & set(response.headers["cache-control"].split(", ")):
                wrong.append(f"{path}: a cache in front may share it: {response.headers['cache-control']}")
        elif path.startswith("/blind") and body["a"] is not None:
            # The service cannot tell: each answer must go to one client only.
            key = f"{path} {body['a']['n']}"
            if owners.setdefault(key, who) != who:
                wrong.append(f"{path}: one answer to {owners[key]} and {who}")
        elif path.startswith("/lists") and any(item["who"] != who for item in body["many"]):
            wrong.append(f"{path}: {body['many']} to {who}")

    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client,
    ):
        done = 0
        while done < requests:
            await asyncio.gather(*(one(client) for _ in range(50)))
            done += 50
    return wrong, service


async def test_no_answer_ever_reaches_another_principal(tmp_path: Path) -> None:
    wrong, service = await mixed(tmp_path, REQUESTS)
    assert wrong == []
    assert service.calls["public"] == 1
    assert service.calls["blind"] < REQUESTS / 4
    assert min(service.calls[what] for what in ("of", "many", "blind")) > 20


async def test_it_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail: without the identity in the key of calls in flight, answers reach others."""
    whole = coalesce.coalescing_key

    def key(call: Any) -> Any:
        principal, call.principal = call.principal, None
        try:
            return whole(call)
        finally:
            call.principal = principal

    monkeypatch.setattr("anabranch.policy.coalesce.coalescing_key", key)
    monkeypatch.setattr("anabranch.policy.cache.key_of", lambda request, caching, _principal: original(request, caching, None))
    wrong, _ = await mixed(tmp_path, 300)
    assert any("/blind" in line for line in wrong)
