"""No answer ever reaches another principal: two whole gateways on one store, and random clients at once through everything that shares.

The service knows who has caused a call from the context of the task that makes it, although most calls say nothing of the client. So an answer that is shared with
somebody else has the wrong name in it, whichever layer shared it. ANABRANCH_FUZZ=10000 sets the number of principals: 53,000 requests in about a minute.
"""

import asyncio
import json
import os
import random
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from contextvars import ContextVar
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import cycle
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

import bcrypt
import pytest

from anabranch.cache.keys import key_of
from anabranch.core.exchange import Address, Answer, Request
from anabranch.core.principal import Principal
from anabranch.engine.kinds import each
from anabranch.errors import ConnectError
from anabranch.main import assemble
from anabranch.policy.coalesce import coalescing_key
from anabranch.settings import Settings
from anabranch.store.memory import MemoryStore
from tests.support import asgi
from tests.support.tokens import ISSUER, SECRET, sign

PRINCIPALS = int(os.environ.get("ANABRANCH_FUZZ", "300"))
NEW: Final = 24
"""Principals that come in a round, beside some that were there before."""
FRESHNESS: Final = {
    "fresh": "max-age=60",
    "stale": "max-age=0, stale-while-revalidate=60",
    "fails": "max-age=0, stale-if-error=60",
    "tagged": "no-cache",
    "own": "private, max-age=60",
    "unknown": "",
}
OWNED: Final = (
    *(f"/mine/{kind}" for kind in FRESHNESS),
    *(f"/varied/{kind}" for kind in ("fresh", "stale", "unknown")),
    "/together/fresh",
    "/many/fresh",
    "/each/fresh",
    "/each/fails",
)
WITH_TOKENS: Final = (
    *(f"/{what}/{kind}" for what in ("token", "exchanged") for kind in ("fresh", "stale", "fails", "tagged")),
    "/tokens/fresh",
)
PUBLIC: Final = "/everybody/fresh"


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """A client. `name`: of the principal. `exact`: of its credential. `token`: b"" if it has none."""

    name: str
    exact: str
    headers: dict[str, str]
    token: str = ""


CAUSE: ContextVar[Who] = ContextVar("cause")


def clients(count: int, folder: Path) -> tuple[list[Who], dict[str, object]]:
    """Principals with as few different subjects as possible, and the `auth` of a document that knows them. A few of those with tokens have two."""
    names = [f"p{number}" for number in range(count // 4 + 1)]
    keys = {name: {"sha256": sha256(f"key {name}".encode()).hexdigest()} for name in names}
    users = [(name, bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()) for name in names[:12]]
    (folder / "users").write_text("".join(f"{name}:{hashed}\n" for name, hashed in users))
    issued = {"iss": ISSUER, "aud": "shop", "exp": int(time.time()) + 3600}
    jwt = {"jwt": {"issuer": ISSUER, "audience": "shop", "secret": SECRET, "algorithms": ["HS256"]}}
    found = []
    for name in names:
        found.append(Who(name=f"keys {name}", exact=f"keys {name}", headers={"x-api-key": f"key {name}"}))
        for number in (1, 2):
            token = sign({**issued, "sub": name, "jti": number}, SECRET, alg="HS256", kid=None)
            bearer = {"authorization": f"Bearer {token}"}
            found.append(Who(name=f"users {name}", exact=f"users {name} {number}", headers=bearer, token=token))
        token = sign({**issued, "sub": name, "other": True}, SECRET, alg="HS256", kid=None)
        found.append(Who(name=f"others {name}", exact=f"others {name}", headers={"x-token": token}, token=token))
    for name, _ in users:
        basic = {"authorization": "Basic " + b64encode(f"{name}:secret".encode()).decode()}
        found.append(Who(name=f"staff {name}", exact=f"staff {name}", headers=basic))
    return found, {
        "users": jwt,
        "others": {"jwt": {**jwt["jwt"], "header": "x-token"}},
        "keys": {"api_key": {"keys": keys}},
        "staff": {"basic": {"users": "${file:" + str(folder / "users") + "}"}},
    }


def document(auth: dict[str, object]) -> dict[str, object]:
    call = {"upstream": "plain", "path": "/{path.kind}"}
    ids = {"upstream": "plain", "path": "/ids", "hidden": True, "cache": {"scope": "public", "ttl": "1h"}}
    many = {"query": {"ids": {"value": "{batch}", "style": "comma"}}, "each": "{ids}"}
    single = {"query": {"of": "{item}"}, "each": "{ids}", "distinct": "{item}"}
    window = {"size": 50, "key": "{item}", "match": "id", "window": "3ms"}
    exchange = {"token_url": "http://id/token", "client_id": "gateway", "client_secret": "s3cret"}
    shared = {"cache": {}, "coalesce": True}
    tokens = {"auth": ["users", "others"]}
    return {
        "version": 1,
        "auth": auth,
        "store": {"redis": {"url": "redis://replaced"}},
        "defaults": {"auth": [*auth], "timeout": "20s", "response": {"cache": True}},
        "upstreams": {
            "plain": {"url": "http://plain"},
            "token": {"url": "http://token", "client_token": True},
            "exchanged": {"url": "http://exchanged", "token_exchange": exchange},
        },
        "endpoints": [
            {"path": "/mine/{kind}", "steps": {"a": {**call, **shared}}},
            {
                "path": "/varied/{kind}",
                "steps": {
                    "a": {
                        **call,
                        "forward_headers": ["accept-language"],
                        "cache": {"ttl": "1h", "vary_on": ["x-lang"], "key": ["{path.kind}"], "stale_if_error": "1h", "tags": ["a"]},
                    }
                },
            },
            {"path": "/together/{kind}", "steps": {"a": {**call, "coalesce": True}}},
            {"path": "/many/{kind}", "steps": {"ids": ids, "many": {**call, **many, "batch": window}}},
            {"path": "/each/{kind}", "steps": {"ids": ids, "a": {**call, **shared, **single}}},
            {"path": "/token/{kind}", **tokens, "steps": {"a": {**call, **shared, "upstream": "token"}}},
            {"path": "/exchanged/{kind}", **tokens, "steps": {"a": {**call, **shared, "upstream": "exchanged"}}},
            {"path": "/tokens/{kind}", **tokens, "steps": {"ids": ids, "many": {**call, **many, "upstream": "token", "batch": window}}},
            {"path": "/everybody/{kind}", "steps": {"a": {**call, "cache": {"scope": "public"}}}},
        ],
    }


@dataclass(slots=True)
class Seen:
    """`wrong`: what reached somebody else. `counts`: answers and calls by what they are."""

    wrong: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    owners: dict[str, str] = field(default_factory=dict)


class Service:
    """Answers with the client for whom it was asked."""

    def __init__(self, upstream: str, seen: Seen, chance: random.Random) -> None:
        self._upstream = upstream
        self._seen = seen
        self._chance = chance

    async def exchange(self, request: Request, address: Address, deadline: float) -> Answer:
        who = CAUSE.get()
        kind, _, query = request.target.removeprefix("/").partition("?")
        if kind == "token":
            assert isinstance(request.body, bytes)
            said = parse_qs(request.body.decode())["subject_token"][0]
            self._expect(said, who.token, "the exchange of a token")
            return self._answer({"access_token": f"for-{said}", "token_type": "Bearer", "expires_in": 3000}, "no-store")
        self._seen.counts[f"calls of {self._upstream}"] += 1
        sent = next((value.decode() for name, value in request.extra if name == b"authorization"), "")
        if self._upstream != "plain":
            self._expect(sent, f"Bearer {'for-' if self._upstream == 'exchanged' else ''}{who.token}", "a token")
        else:
            self._expect(sent, "", "no credential")
        await asyncio.sleep(self._chance.choice((0, 0, 0.001, 0.003)))
        if kind == "ids":
            return self._answer([1, 2, 2, 3], "")
        if kind == "fails" and self._chance.random() < 0.5:
            raise ConnectError("away")
        said_for = {"who": who.name, "exact": who.exact}
        # What is asked for with a token is stored only if it is public (RFC 9111 section 3.5).
        control = FRESHNESS[kind] if self._upstream == "plain" else f"public, {FRESHNESS[kind]}"
        if query.startswith("ids="):
            many = parse_qs(query)["ids"][0].split(",")
            return self._answer([{"id": id_, **said_for} for id_ in many], "no-store")
        if kind == "tagged":
            # All principals' answers have one tag: only who asks makes the difference.
            if (b"if-none-match", b'"v"') in request.extra:
                self._seen.counts["validated"] += 1
                return Answer(304, [(b"etag", b'"v"'), (b"cache-control", control.encode())], b"")
            return self._answer(said_for, control, (b"etag", b'"v"'))
        return self._answer(said_for, control, (b"vary", b"accept-language"))

    def _expect(self, said: str, expected: str, what: str) -> None:
        if said != expected:
            self._seen.wrong.append(f"{self._upstream}: {what} of another client")

    @staticmethod
    def _answer(value: object, control: str, *fields: tuple[bytes, bytes]) -> Answer:
        pairs = [(b"content-type", b"application/json"), *fields]
        return Answer(200, [*pairs, (b"cache-control", control.encode())] if control else pairs, json.dumps(value).encode())

    async def aclose(self) -> None: ...


def names(value: Any, member: str) -> Iterator[str]:
    """All values of a member, anywhere in a document."""
    if isinstance(value, dict):
        if isinstance(found := value.get(member), str):
            yield found
        value = [*value.values()]
    if isinstance(value, list):
        for part in value:
            yield from names(part, member)


async def ask(app: Any, who: Who, path: str, headers: dict[str, str], seen: Seen) -> None:
    """One request, and whose the answer is."""
    CAUSE.set(who)
    client = await asgi.ask(app, "GET", path, headers={"host": "gateway", **who.headers, **headers})
    fields, seen.counts[f"status {client.status}"] = client.headers, seen.counts[f"status {client.status}"] + 1
    for use in ("hit", "collapsed", "stale-while-revalidate", "stale-if-error", "detail=fleet"):
        seen.counts[use] += use in fields.get("cache-status", "")
    tag = fields.get("etag", "")
    if path == PUBLIC:
        return
    if client.status == 304:
        if seen.owners[tag] != who.name:
            seen.wrong.append(f"{path}: 304 to {who.name} for what {seen.owners[tag]} has got")
        return
    member, own = ("exact", who.exact) if path in WITH_TOKENS else ("who", who.name)
    found = set(names(json.loads(client.body), member))
    seen.wrong += [f"{path}: {other} to {own}" for other in found - {own}]
    if client.status == 200 and not {"private", "no-store"} & set(fields["cache-control"].split(", ")):
        seen.wrong.append(f"{path}: a cache in front may share it: {fields['cache-control']}")
    if tag and found:
        seen.owners[tag] = who.name
        seen.counts["tags"] += 1


async def mixed(folder: Path, principals: int, monkeypatch: pytest.MonkeyPatch, paths: tuple[str, ...] = (*OWNED, *WITH_TOKENS)) -> Seen:
    """Rounds of requests of many clients for the same few paths at once, each through one of two gateways."""
    chance = random.Random(11)
    everybody, auth = clients(principals, folder)
    chance.shuffle(everybody)
    seen, store = Seen(), MemoryStore()
    file = folder / "gateway.yaml"
    file.write_text(json.dumps(document(auth)))
    monkeypatch.setattr("anabranch.document.services.MemoryStore", lambda: store)
    settings = Settings(document=file, reload="off", metrics=False, access_log="off")
    apps = [assemble(settings, stand_in=lambda upstream: Service(upstream.name, seen, chance)).app for _ in range(2)]
    turns = cycle(chance.sample(paths, len(paths)))
    async with AsyncExitStack() as exits:
        for app in apps:
            await exits.enter_async_context(app.router.lifespan_context(app))
        for start in range(0, len(everybody), NEW):
            present = everybody[start : start + NEW] + chance.choices(everybody[: start + NEW], k=8)
            asked = [(chance.choice(present), path) for path in [next(turns) for _ in range(4)] for _ in range(10)] + [(present[0], PUBLIC)]
            asked = [(who, path if who.token or path not in WITH_TOKENS else "/mine/fresh") for who, path in asked]
            # What the second wave asks for was stored by the first.
            for _ in range(2):
                tags = chance.choices([*seen.owners], k=16) if seen.owners else []
                async with asyncio.TaskGroup() as group:
                    for who, path in chance.choices(asked, k=64):
                        headers = {"x-lang": chance.choice("ab")} if path.startswith("/varied") else {}
                        if tags and chance.random() < 0.3:
                            headers["if-none-match"] = ", ".join(chance.sample(tags, 3))
                        group.create_task(ask(chance.choice(apps), who, path, headers, seen))
    return seen


async def test_no_answer_ever_reaches_another_principal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = await mixed(tmp_path, PRINCIPALS, monkeypatch)
    counts = seen.counts
    assert seen.wrong == []
    requests = sum(counts[name] for name in counts if name.startswith("status"))
    assert requests >= 5 * PRINCIPALS
    assert {name for name in counts if name.startswith("status")} <= {"status 200", "status 304", "status 502"}, counts
    # Everything that shares has shared.
    for use in ("hit", "collapsed", "stale-while-revalidate", "stale-if-error", "detail=fleet", "validated", "status 304", "tags"):
        assert counts[use] >= 5, (use, counts)
    for upstream in ("plain", "token", "exchanged"):
        assert counts[f"calls of {upstream}"] >= 20, counts


async def test_what_is_public_is_shared_by_all_principals_and_gateways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = await mixed(tmp_path, 60, monkeypatch, (PUBLIC,) * 4)
    assert seen.counts["status 200"] + seen.counts["status 304"] >= 250
    assert seen.counts["calls of plain"] == 1


def _nobodys_call(call: Any) -> Any:
    principal, call.principal = call.principal, None
    try:
        return coalescing_key(call)
    finally:
        call.principal = principal


def _nobodys_batch(whole: Callable[..., Any]) -> Callable[..., Any]:
    return lambda plan, batch: lambda frame, request: whole(plan, batch)(frame, request)[1:]


@pytest.mark.parametrize(
    ("path", "place", "without"),
    [
        ("/together/fresh", "anabranch.policy.coalesce.coalescing_key", _nobodys_call),
        ("/mine/fresh", "anabranch.policy.cache.key_of", lambda request, caching, _: key_of(request, caching, None)),
        ("/many/fresh", "anabranch.engine.kinds.each._but_for_the_keys", _nobodys_batch(each._but_for_the_keys)),
        ("/token/fresh", "anabranch.core.principal.Principal.exact", property(lambda principal: principal)),
    ],
    ids=["single flight", "cache", "batches", "tokens"],
)
async def test_it_would_be_noticed(path: str, place: str, without: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail: without the principal in a key, answers reach others."""
    assert Principal(sub="a", name="a", via="b").exact
    monkeypatch.setattr(place, without)
    seen = await mixed(tmp_path, 40, monkeypatch, (path,) * 4)
    assert any(line.startswith(path) for line in seen.wrong)
