"""Routes in Python ask who their clients are, by the authentications of the document."""

from pathlib import Path

import pytest

from anabranch.errors import ConfigError
from anabranch.testing.scripted.upstream import ScriptedUpstream
from tests.support.gateway import running_gateway

ROUTES = """
from typing import Annotated

from fastapi import APIRouter, Depends

from anabranch import Fan, Principal, authenticated

router = APIRouter()
Client = Annotated[Principal, Depends(authenticated())]


@router.get("/me")
async def me(fan: Fan, client: Client) -> dict[str, object]:
    return {"sub": client.sub, "via": client.via, "a": await fan.get("a", "/it")}


@router.get("/staff", dependencies=[Depends(authenticated("staff"))])
async def staff() -> str:
    return "welcome"


@router.get("/open")
async def open_to_all() -> str:
    return "hello"
"""
DOCUMENT = """
version: 1
auth:
  partners: {{api_key: {{keys: {{alice: {{sha256: 8fab151ebfe45da0ce0c2a951f8bba063f8668389b08a793acf59f301a6dbd57}}}}}}}}
  staff: {{api_key: {{header: x-staff, keys: {{bob: {{sha256: dc3b2e6c977deebea495ebfecc09fd036765694a52702a8cc4230f246380a281}}}}}}}}
defaults: {{auth: {auth}}}
upstreams: {{a: {{url: "{url}"}}}}
routers: ["{module}:router"]
endpoints: []
"""


def project(folder: Path, name: str, routes: str = ROUTES) -> str:
    """A module of routes in a project's folder; its name, which no other test has."""
    module = f"routes_of_{name}"
    (folder / f"{module}.py").write_text(routes)
    return module


async def test_a_route_knows_its_client_and_refuses_others(tmp_path: Path) -> None:
    async with ScriptedUpstream({"/it": {"json": {"seats": 3}}}) as upstream:
        document = DOCUMENT.format(auth="partners", url=upstream.url, module=project(tmp_path, "clients"))
        async with running_gateway(document, tmp_path) as gateway, gateway.client() as client:
            answer = await client.get("/me", headers={"x-api-key": "k-alice"})
            assert answer.status_code == 200
            assert answer.json() == {"sub": "alice", "via": "partners", "a": {"seats": 3}}
            refused = await client.get("/me")
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == 'ApiKey in="header", name="x-api-key"'
            assert refused.json()["type"].endswith("/problems/unauthenticated")
            assert (await client.get("/me", headers={"x-api-key": "k-bob"})).json()["detail"] == "the credential is not valid"
            assert (await client.get("/staff", headers={"x-api-key": "k-alice"})).status_code == 401
            assert (await client.get("/staff", headers={"x-staff": "k-bob"})).json() == "welcome"
            assert (await client.get("/open")).json() == "hello"
            described = (await client.get("/openapi.json")).json()
    assert described["paths"]["/me"]["get"]["security"] == [{"partners": []}]
    assert described["paths"]["/staff"]["get"]["security"] == [{"staff": []}]
    assert "security" not in described["paths"]["/open"]["get"]
    assert described["components"]["securitySchemes"]["staff"] == {"type": "apiKey", "in": "header", "name": "x-staff"}
    assert "401" in described["paths"]["/me"]["get"]["responses"]
    assert len(upstream.hits) == 1


async def test_a_client_of_a_route_has_its_token_sent_to_services(tmp_path: Path) -> None:
    answers = {"/it": {"json": 1}, "/introspect": {"json": {"active": True, "sub": "alice"}}}
    async with ScriptedUpstream(answers) as upstream:
        document = f"""
version: 1
auth: {{users: {{introspection: {{url: "{upstream.url}/introspect", client_id: gateway, client_secret: s3cret}}}}}}
defaults: {{auth: users}}
upstreams: {{a: {{url: "{upstream.url}", client_token: true}}}}
routers: ["{project(tmp_path, "tokens")}:router"]
""".replace("staff: ", "")
        (tmp_path / "routes_of_tokens.py").write_text(ROUTES.replace('"staff"', '"users"'))
        async with running_gateway(document, tmp_path) as gateway, gateway.client() as client:
            answer = await client.get("/me", headers={"authorization": "Bearer t-alice"})
            assert answer.json() == {"sub": "alice", "via": "users", "a": 1}
    assert [dict(hit.headers).get("authorization") for hit in upstream.hits if hit.target == "/it"] == ["Bearer t-alice"]


@pytest.mark.parametrize(
    ("auth", "routes", "message"),
    [
        ("none", ROUTES, "asks for the default authentication, and `defaults.auth` is not set"),
        ("partners", ROUTES.replace('"staff"', '"stuff"'), "asks for an unknown authentication `stuff`"),
    ],
)
async def test_what_a_route_asks_for_in_vain_is_found_at_start(tmp_path: Path, auth: str, routes: str, message: str) -> None:
    module = project(tmp_path, f"vain_{auth}", routes)
    with pytest.raises(ConfigError) as refused:
        async with running_gateway(DOCUMENT.format(auth=auth, url="http://127.0.0.1:1", module=module), tmp_path):
            pass
    assert [problem.path for problem in refused.value.problems if message in problem.message] == ["routers[0]"]


async def test_routes_that_ask_nobody_are_told_of_where_endpoints_ask(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module = project(tmp_path, "open")
    async with running_gateway(DOCUMENT.format(auth="partners", url="http://127.0.0.1:1", module=module), tmp_path):
        assert "1 of them ask nobody who they are, such as /open" in caplog.text
