from html.parser import HTMLParser

import orjson
import pytest

from anabranch import errors
from anabranch.describe.advice import ADVICE
from anabranch.describe.pages import error_classes
from anabranch.edge.app import build_app
from anabranch.edge.dataplane import DataPlane
from anabranch.engine.outcome import Result
from tests.support.asgi import ask


async def run(*_: object) -> Result:
    raise AssertionError("no page runs an endpoint")


APP = build_app(plane=DataPlane(lambda _: run))


def test_every_code_has_advice_and_all_advice_has_a_code() -> None:
    assert set(ADVICE) == set(error_classes())


def test_classes_that_share_a_code_have_one_page_with_the_text_of_the_base_class() -> None:
    assert error_classes()["step_failed"] is errors.StepError


@pytest.mark.parametrize("code", sorted(ADVICE))
async def test_every_code_has_a_page(code: str) -> None:
    client = await ask(APP, "GET", f"/problems/{code}", headers={"accept": "text/html,*/*"})
    assert client.status == 200
    assert client.headers["content-type"] == "text/html; charset=utf-8"
    HTMLParser().feed(client.body.decode())
    assert code in client.body.decode()
    assert b"://" not in client.body
    client = await ask(APP, "GET", f"/problems/{code}", headers={"accept": "application/json"})
    assert orjson.loads(client.body)["type"] == f"/problems/{code}"


async def test_index_lists_every_code() -> None:
    client = await ask(APP, "GET", "/problems", headers={"accept": "application/json"})
    assert {page["code"] for page in orjson.loads(client.body)} == set(ADVICE)
    client = await ask(APP, "GET", "/problems")
    assert all(f"problems/{code}" in client.body.decode() for code in ADVICE)


async def test_unknown_code_is_not_found() -> None:
    client = await ask(APP, "GET", "/problems/%3Cscript%3E")
    assert (client.status, client.headers["content-type"]) == (404, "application/problem+json")
    assert orjson.loads(client.body)["instance"] == client.headers["x-request-id"]


async def test_status_is_shown_when_it_is_fixed() -> None:
    for code, status in (("timeout", 504), ("upstream_status", None), ("config_error", None), ("invalid_body", 400)):
        client = await ask(APP, "GET", f"/problems/{code}", headers={"accept": "application/json"})
        assert orjson.loads(client.body)["status"] == status
