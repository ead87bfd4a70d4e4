"""Tokens verified with the keys of an authority that rotates them, is away, is slow. Time is simulated."""

import asyncio
import json
from typing import Any

import pytest
from joserfc.jwk import OKPKey

from anabranch.config.auth.jwt import JWT
from anabranch.core.principal import Principal
from anabranch.errors import ConnectError
from anabranch.guard.auth.bearer import finder
from anabranch.guard.auth.jwt import JWTAuthenticator, build
from anabranch.guard.auth.keys import LONGEST_PAUSE_S, UNKNOWN_PAUSE_S
from anabranch.guard.auth.remembered import Remembered
from anabranch.guard.auth.seam import CannotAuthenticate, InvalidCredential
from anabranch.guard.tools import Tools
from anabranch.store.memory import MemoryStore
from tests.support.authority import Authority, Presented, bearing
from tests.support.tokens import ED25519, ISSUER, NOW, P256, claims, jwks, public, sign

URL = "https://id.example/keys"
OLD = public(ED25519, kid="k1")
NEW = public(P256, kid="k2")
GOOD = sign(claims())
ROTATED = sign(claims(), P256, alg="ES256", kid="k2")


def clock() -> float:
    """The loop's simulated time, as seconds since the epoch."""
    return NOW + asyncio.get_running_loop().time() - 1000


def make(authority: Authority, *, memory: MemoryStore | None = None, **settings: Any) -> JWTAuthenticator:
    source = JWT.model_validate({"issuer": ISSUER, "audience": "shop", "jwks_url": URL} | settings)
    return build("users", source, Tools(memory=memory or MemoryStore(clock=clock), clock=clock, opener=authority.open))


async def reason(authenticator: JWTAuthenticator, token: str) -> str:
    with pytest.raises((InvalidCredential, CannotAuthenticate)) as caught:
        await authenticator.authenticate(bearing(token))
    kind = "" if isinstance(caught.value, InvalidCredential) else "cannot: "
    return f"{kind}{caught.value.reason}"  # type: ignore[attr-defined]


async def sub(authenticator: JWTAuthenticator, token: str) -> str:
    principal = await authenticator.authenticate(bearing(token))
    assert principal is not None
    return principal.sub


def after(seconds: float) -> str:
    """A token that is good after this time."""
    return sign(claims(exp=NOW + seconds + 3600, jti=str(seconds)))


async def test_the_principal_has_what_the_token_says() -> None:
    said = claims(name="Alice", roles=["admin"])
    token = sign(said)
    async with make(Authority(jwks())) as users:
        assert users.recall(bearing(token)) is None

        principal = await users.authenticate(bearing(token))

        assert principal is not None
        assert (principal.sub, principal.name, principal.via) == ("alice", "Alice", "users")
        assert json.loads(principal.claims) == said
        assert principal.credential == token.encode()
        assert principal.expires_at == NOW + 3600 + 30
        assert users.recall(bearing(token)) is principal
        assert users.challenge == 'Bearer realm="gateway"'


async def test_who_sends_no_token_is_not_judged() -> None:
    async with make(Authority(jwks())) as users:
        for headers in ({}, {b"authorization": b"Basic YTpi"}, {b"authorization": b"Bearerx.y.z"}, {b"cookie": b"token=a.b.c"}):
            assert await users.authenticate(Presented(headers)) is None
            assert users.recall(Presented(headers)) is None


async def test_all_share_the_first_fetch_and_it_is_made_in_the_background() -> None:
    authority = Authority(jwks())
    async with make(authority) as users:
        await asyncio.gather(*(users.authenticate(bearing(sign(claims(jti=str(index))))) for index in range(50)))
        assert authority.asked == [URL]

    authority = Authority(jwks())
    async with make(authority) as users:
        await asyncio.sleep(1)
        assert authority.asked == [URL]
        authority.failure = ConnectError("away")
        assert await sub(users, GOOD) == "alice"
    assert authority.is_closed


async def test_a_client_that_goes_away_takes_the_fetch_from_nobody() -> None:
    authority = Authority(jwks())
    users = make(authority)
    first, second = (asyncio.create_task(users.authenticate(bearing(GOOD))) for _ in range(2))
    await asyncio.sleep(0.05)
    first.cancel()

    assert await second is not None
    assert first.cancelled()
    assert len(authority.asked) == 1
    await users.__aexit__()


async def test_closing_ends_a_fetch() -> None:
    authority = Authority(jwks())
    authority.delay_s = 1e6
    async with make(authority):
        await asyncio.sleep(1)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_new_key_makes_one_fetch_for_all() -> None:
    authority = Authority(jwks(OLD))
    async with make(authority) as users:
        await sub(users, GOOD)
        authority.body = jwks(OLD, NEW)

        found = await asyncio.gather(
            *(users.authenticate(bearing(sign(claims(jti=str(i)), P256, alg="ES256", kid="k2"))) for i in range(20))
        )

        assert all(found)
        assert len(authority.asked) == 2


async def test_invented_keys_make_few_fetches_and_delay_no_good_token() -> None:
    authority = Authority(jwks(OLD))
    forger = OKPKey.generate_key("Ed25519")
    async with make(authority) as users:
        await sub(users, GOOD)
        authority.delay_s = 3.0
        loop = asyncio.get_running_loop()
        began = loop.time()

        async def attack(index: int) -> str:
            return await reason(users, sign(claims(), forger, kid=f"evil-{index}"))  # type: ignore[arg-type]

        attacks = [asyncio.create_task(attack(index)) for index in range(200)]
        await asyncio.sleep(0)
        assert await sub(users, sign(claims(jti="meanwhile"))) == "alice"
        assert loop.time() == began
        assert set(await asyncio.gather(*attacks)) == {"unknown_key"}
        assert {await attack(index) for index in range(50)} == {"unknown_key"}
        assert len(authority.asked) == 2

        authority.body = jwks(OLD, NEW)
        await asyncio.sleep(UNKNOWN_PAUSE_S)
        assert await sub(users, ROTATED) == "alice"
        assert len(authority.asked) == 3


async def test_what_says_the_wrong_thing_makes_no_fetch() -> None:
    authority = Authority(jwks(OLD))
    users = make(authority)
    for changes in ({"iss": "https://evil.example/"}, {"aud": "bank"}, {"exp": 1}, {"sub": None}):
        await reason(users, sign(claims(**changes), kid="evil"))
    assert authority.asked == []


async def test_a_key_that_is_withdrawn_verifies_nothing_any_more_not_even_what_is_remembered() -> None:
    authority = Authority(jwks(OLD))
    async with make(authority) as users:
        await sub(users, GOOD)
        authority.body = jwks(NEW)
        assert await sub(users, ROTATED) == "alice"

        assert users.recall(bearing(GOOD)) is None
        assert await reason(users, GOOD) == "unknown_key"


async def test_keys_that_are_the_same_leave_what_is_remembered() -> None:
    authority = Authority(jwks(OLD))
    async with make(authority, refresh="1m") as users:
        await sub(users, GOOD)
        authority.body = jwks({**OLD, "x5t": "other"})
        await asyncio.sleep(61)

        assert len(authority.asked) == 2
        assert users.recall(bearing(GOOD)) is not None


async def test_another_key_of_the_same_name_is_found() -> None:
    authority = Authority(jwks(OLD))
    other = OKPKey.generate_key("Ed25519")
    async with make(authority) as users:
        await sub(users, GOOD)
        authority.body = jwks(dict(other.as_dict(private=False), kid="k1"))

        assert await sub(users, sign(claims(), other, kid="k1")) == "alice"  # type: ignore[arg-type]


async def test_keys_without_names_are_fetched_again_when_none_fits() -> None:
    authority = Authority(jwks(public(ED25519)))
    async with make(authority) as users:
        await sub(users, sign(claims(), kid=None))
        authority.body = jwks(public(P256))

        assert await sub(users, sign(claims(), P256, alg="ES256", kid=None)) == "alice"


async def test_old_keys_are_used_while_the_authority_is_away_but_not_for_ever() -> None:
    authority = Authority(jwks(OLD))
    async with make(authority, refresh="10m", keep="1h") as users:
        await sub(users, GOOD)
        authority.failure = ConnectError("the service refused the connection")
        await asyncio.sleep(1800)

        assert await sub(users, after(1800)) == "alice"
        notes = list(users.notes())
        assert len(notes) == 1
        assert notes[0].startswith("the keys of authentication users cannot be fetched (the service refused the connection); those of 1")
        # A key that nobody knows could be a new one, and a bad signature of a known one is bad.
        assert await reason(users, ROTATED) == "cannot: no_keys"
        head, body, _ = GOOD.split(".")
        assert await reason(users, f"{head}.{body}.{'A' * 86}") == "signature"
        assert len(authority.asked) < 3 + 1300 / LONGEST_PAUSE_S * 2

        await asyncio.sleep(1900)
        assert await reason(users, after(3700)) == "cannot: no_keys"
        assert users.recall(bearing(after(1800))) is None
        assert list(users.notes())[0].endswith("there are none")  # noqa: RUF015

        authority.failure = None
        await asyncio.sleep(2 * LONGEST_PAUSE_S)
        assert await sub(users, after(3700)) == "alice"
        assert list(users.notes()) == []


async def test_while_there_are_no_keys_the_authority_is_not_flooded() -> None:
    authority = Authority(jwks(OLD))
    authority.failure = ConnectError("away")
    users = make(authority)
    assert {await reason(users, GOOD) for _ in range(100)} == {"cannot: no_keys"}
    assert len(authority.asked) == 1

    authority.failure = None
    await asyncio.sleep(2)
    assert await sub(users, GOOD) == "alice"
    assert len(authority.asked) == 2


@pytest.mark.parametrize(
    ("field", "fetches"),
    [
        (b"max-age=60", range(9, 12)),
        (b"public, max-age=300, must-revalidate", range(2, 4)),
        (b"max-age=86400", range(1, 2)),
        (b"max-age=0", range(18, 24)),
        (b"no-cache", range(1, 2)),
        (b"x-max-age=60", range(1, 2)),
    ],
)
async def test_keys_are_fetched_again_when_the_authority_says_so(field: bytes, fetches: range) -> None:
    authority = Authority(jwks(OLD))
    authority.headers = [(b"cache-control", field)]
    async with make(authority, refresh="11m"):
        await asyncio.sleep(590)

        assert len(authority.asked) in fetches


async def test_keys_outlive_a_reload() -> None:
    authority, memory = Authority(jwks(OLD)), MemoryStore(clock=clock)
    async with make(authority, memory=memory) as users:
        await sub(users, GOOD)
    authority.failure = ConnectError("away")

    async with make(authority, memory=memory, leeway="10s") as users:
        assert await sub(users, GOOD) == "alice"


async def test_the_metadata_of_the_issuer_lead_to_the_keys() -> None:
    authority = Authority(jwks(OLD))
    at = "/.well-known/openid-configuration"
    authority.bodies[at] = json.dumps({"issuer": ISSUER, "jwks_uri": "https://keys.example:8443/k?v=1"}).encode()
    async with make(authority, jwks_url=None) as users:
        assert await sub(users, GOOD) == "alice"
        assert authority.asked == [f"https://id.example{at}", "https://keys.example:8443/k?v=1"]


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://id.example", "jwks_uri": URL},
        {"issuer": ISSUER, "jwks_uri": "http://id.example/keys"},
        {"issuer": ISSUER, "jwks_uri": "file:///etc/passwd"},
        {"issuer": ISSUER, "jwks_uri": 7},
        {"issuer": ISSUER},
        [],
    ],
)
async def test_metadata_that_are_not_followed(metadata: object) -> None:
    authority = Authority(jwks(OLD))
    authority.bodies["/.well-known/openid-configuration"] = json.dumps(metadata).encode()
    users = make(authority, jwks_url=None)

    assert await reason(users, GOOD) == "cannot: no_keys"
    assert len(authority.asked) == 1


async def test_a_remembered_token_ends_when_it_expires() -> None:
    async with make(Authority(jwks(OLD)), leeway="0s") as users:
        await sub(users, GOOD)
        await asyncio.sleep(3599)
        assert users.recall(bearing(GOOD)) is not None
        await asyncio.sleep(2)

        assert users.recall(bearing(GOOD)) is None
        assert await reason(users, GOOD) == "expired"


async def test_nothing_of_a_refused_token_is_kept() -> None:
    async with make(Authority(jwks(OLD))) as users:
        head, body, _ = GOOD.split(".")
        await reason(users, f"{head}.{body}.{'A' * 86}")

        remembered = [sample.value for sample in users.samples() if sample.metric.name == "anabranch_tokens_remembered"]
        assert remembered == [0]


async def test_what_is_measured() -> None:
    authority = Authority(jwks(OLD))
    async with make(authority) as users:
        await sub(users, GOOD)
        await asyncio.sleep(9)
        authority.status = 500
        await reason(users, ROTATED)

        found = {(sample.metric.name.removeprefix("anabranch_"), *sample.labels): round(sample.value) for sample in users.samples()}
        assert found == {
            ("tokens_remembered", "users"): 1,
            ("key_fetches", "users", "fetched"): 1,
            ("key_fetches", "users", "failed"): 1,
            ("keys", "users"): 1,
            ("keys_age_seconds", "users"): 9,
        }
        assert list(users.notes()) == [
            "the keys of authentication users cannot be fetched (the authority answered 500); those of 9 s ago are used"
        ]


async def test_the_authority_is_asked_without_anything_of_the_client() -> None:
    authority = Authority(jwks(OLD))
    async with make(authority) as users:
        await sub(users, GOOD)
    assert {name for name, _ in authority.requests[0].headers.pairs} == {b"accept", b"accept-encoding"}
    assert authority.plan is not None
    assert (authority.plan.is_authority, authority.plan.follow_redirects, authority.plan.max_response_bytes) == (True, 0, 1024 * 1024)


def test_what_is_remembered_is_bounded() -> None:
    remembered = Remembered(lambda: 0.0, most_bytes=20_000)
    for index in range(1000):
        remembered.put(f"token-{index}".encode(), Principal(str(index), "", "users", b"{}", b"x" * 100), 10.0)

    assert 10 < len(remembered) < 40
    assert remembered.get(b"token-999") is not None
    assert remembered.get(b"token-0") is None
    remembered.put(b"big", Principal("big", "", "users", b"x" * 30_000), 10.0)
    assert len(remembered) == 0


@pytest.mark.parametrize(
    ("value", "token"),
    [
        (b"Bearer a.b.c", b"a.b.c"),
        (b"bearer a.b.c", b"a.b.c"),
        (b"BEARER   a.b.c ", b"a.b.c"),
        (b"Bearer", b""),
        (b"Bearer ", b""),
        (b"Bearer\ta.b.c", None),
        (b"Bearera.b.c", None),
        (b"a.b.c", None),
        (b"Token a.b.c", None),
        (b"", None),
    ],
)
def test_where_a_token_is_found(value: bytes, token: bytes | None) -> None:
    for header in (None, "Authorization"):
        assert finder(JWT(secret="x" * 32, header=header).place)({b"authorization": value}) == token
