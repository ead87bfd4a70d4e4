"""Tests the demo's gateway against its own description: valid requests are answered as described, invalid ones are rejected.

Also checks that `openapi/demo.json` is what `make openapi` writes.
"""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import hypothesis
import orjson
import pytest
import requests
import schemathesis
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from anabranch.cli.openapi import describe
from anabranch.document.compile import compile_file
from anabranch.main import create_app
from anabranch.settings import Settings
from anabranch.testing.serving import LOOPBACK, serve
from demo import airlines, airports, flights, planes, weather
from tests.support.paths import ROOT
from tests.support.unhurried import unhurried

DOCUMENT = ROOT / "demo" / "gateway.yaml"
DESCRIPTION = orjson.loads((ROOT / "openapi" / "demo.json").read_bytes())
SERVICES = {"flights": flights, "airlines": airlines, "airports": airports, "planes": planes, "weather": weather}
OPERATIONS = [f"{method.upper()} {path}" for path, methods in DESCRIPTION["paths"].items() for method in methods]
CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance, response_schema_conformance,
]  # fmt: skip
TIMEOUT_S = 60.0

REFUSALS = {400, 422}  # of the document's endpoints, of FastAPI's

T = TypeVar("T")
Operations = dict[str, APIOperation[Any, Any, Any, Any]]

# The same examples in every run, without those found by earlier runs, so that failures are reproducible.
bounded = hypothesis.settings(
    max_examples=25, derandomize=True, database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
)


class Loop:
    """An event loop in its own thread, because schemathesis sends requests with a blocking client."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gateway", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        future: Future[T] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        return future.result(TIMEOUT_S)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT_S)
        self._loop.close()


async def started(exits: AsyncExitStack, document: Path) -> str:
    """Serve the demo's services and a gateway with `document` until `exits` is closed. Returns the gateway's address."""
    environ = {}
    for name, module in SERVICES.items():
        environ[f"{name.upper()}_URL"] = f"http://{LOOPBACK}:{await exits.enter_async_context(serve(module.build()))}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environ.items():
            patch.setenv(name, value)
        app = create_app(Settings(document=document, _env_file=None))
    return f"http://{LOOPBACK}:{await exits.enter_async_context(serve(app))}"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    document = tmp_path_factory.mktemp("demo") / "gateway.yaml"
    document.write_text(unhurried(DOCUMENT.read_text("utf-8")), "utf-8")
    loop = Loop()
    exits = AsyncExitStack()
    try:
        yield loop.run(started(exits, document))
    finally:
        loop.run(exits.aclose())
        loop.close()


@pytest.fixture(scope="module")
def operations(address: str) -> Operations:
    """Every operation in the running gateway's description, by its label."""
    found = schemathesis.openapi.from_url(f"{address}/openapi.json").get_all_operations()
    return {result.ok().label: result.ok() for result in found if isinstance(result, Ok)}


def test_exported_description_matches_the_document() -> None:
    """Stale? Run `make openapi`."""
    assert orjson.loads(describe(compile_file(DOCUMENT))) == DESCRIPTION


def test_exported_description_matches_the_served_one(address: str, operations: Operations) -> None:
    served = requests.get(f"{address}/openapi.json", timeout=TIMEOUT_S).json()
    assert served.pop("servers") == [{"url": "."}], "an exported description does not know where it will be served"
    assert served == DESCRIPTION
    assert set(operations) == set(OPERATIONS)


@pytest.mark.parametrize("label", OPERATIONS)
def test_valid_requests_are_answered_as_described(label: str, address: str, operations: Operations) -> None:
    with requests.Session() as session:

        @bounded
        @hypothesis.given(case=operations[label].as_strategy(generation_mode=GenerationMode.POSITIVE))
        def check(case: Case[Any]) -> None:
            case.call_and_validate(base_url=address, session=session, checks=CHECKS)

        check()


@pytest.mark.parametrize("label", OPERATIONS)
def test_invalid_requests_are_rejected_with_a_problem(label: str, address: str, operations: Operations) -> None:
    operation = operations[label]
    declared = {parameter.name for parameter in operation.query}
    refused: list[int] = []
    with requests.Session() as session:

        @bounded
        @hypothesis.given(case=operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
        def check(case: Case[Any]) -> None:
            response = case.call_and_validate(base_url=address, session=session, checks=[not_a_server_error, content_type_conformance])
            if not set(case.query or {}) <= declared and response.status_code not in REFUSALS:
                return  # the only allowed mistake is an undeclared parameter, because those are ignored
            assert response.status_code in REFUSALS
            assert response.headers["content-type"] == ["application/problem+json"]
            assert response.json()["detail"]
            refused.append(response.status_code)

        check()
    assert len(refused) > 10
