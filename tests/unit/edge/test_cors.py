"""The document's CORS rules, around an application and without one."""

import pytest
from starlette.types import Receive, Scope, Send

from anabranch.config.model import CORS
from anabranch.edge.cors import CrossOrigin
from tests.support.asgi import ask


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def rules(*origins: str, **others: object) -> CrossOrigin:
    return CrossOrigin(CORS.model_validate({"allow_origins": list(origins), "allow_headers": ["x-key"], **others}))


async def test_answers_to_allowed_origins_have_cors_fields() -> None:
    answer = await ask(rules("https://app.example").around(app), "GET", "/", headers={"origin": "https://app.example"})
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    exposed = answer.headers["access-control-expose-headers"].lower()
    assert "gateway-complete" in exposed
    assert "retry-after" in exposed


async def test_preflight_is_answered_for_known_origins() -> None:
    headers = {"origin": "https://app.example", "access-control-request-method": "GET", "access-control-request-headers": "x-key"}
    ruled = rules("https://app.example").around(app)
    answer = await ask(ruled, "OPTIONS", "/flights/1", headers=headers)
    assert (answer.status, answer.headers["access-control-max-age"]) == (200, "600")
    assert (await ask(ruled, "OPTIONS", "/flights/1", headers={**headers, "origin": "https://evil.example"})).status == 400


@pytest.mark.parametrize(
    ("origin", "is_allowed"),
    [
        ("https://shop.example", False),
        ("https://eu.shop.example", True),
        ("https://a.b.shop.example", True),
        ("http://eu.shop.example", False),
        ("https://eu.shop.example:8443", False),
        ("https://eu.shop.example.evil.example", False),
        ("https://evil.example/.shop.example", False),
        ("https://evilshop.example", False),
        ("https://app.example", True),
        ("null", False),
    ],
)
async def test_pattern_matches_every_name_below_its_host(origin: str, *, is_allowed: bool) -> None:
    ruled = rules("https://*.shop.example", "https://app.example")
    answer = await ask(ruled.around(app), "GET", "/", headers={"origin": origin})
    assert (answer.headers.get("access-control-allow-origin") == origin) is is_allowed
    assert (dict(ruled.fields(origin.encode())).get(b"access-control-allow-origin") == origin.encode()) is is_allowed


@pytest.mark.parametrize("origins", [("*",), ("https://app.example",), ("https://*.example",)])
@pytest.mark.parametrize("allow_credentials", [True, False])
@pytest.mark.parametrize("origin", ["https://app.example", "https://other.test", None])
async def test_cors_fields_are_the_same_with_and_without_an_application(
    origins: tuple[str, ...], origin: str | None, *, allow_credentials: bool
) -> None:
    ruled = rules(*origins, allow_credentials=allow_credentials)
    answer = await ask(ruled.around(app), "GET", "/", headers={} if origin is None else {"origin": origin})
    fields = ruled.fields(None if origin is None else origin.encode())
    assert {name.decode(): value.decode() for name, value in fields} == answer.headers
