"""The answer to `POST /admin/reload` with several workers."""

from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from anabranch.document.reload import ReloadState
from anabranch.errors import Problem
from anabranch.server.admin.reload import outcome_of, routes
from anabranch.server.peers import PeerResult

PROBLEM = Problem(file="gateway.yaml", line=3, column=1, path="endpoints", message="is wrong")
GOOD = ReloadState(digest="new", loaded_at=1.0, generation=2, succeeded=1, result="ok")
BAD = ReloadState(digest="old", loaded_at=1.0, failed=1, result="failed", problems=(PROBLEM,))
OK: PeerResult = {"result": "ok", "digest": "new", "generation": 2}


class Reloader:
    def __init__(self, state: ReloadState) -> None:
        self.state = state

    async def reload(self, trigger: str) -> ReloadState:
        assert trigger == "admin"
        return self.state


class Others:
    number = 1

    def __init__(self, outcomes: dict[int, PeerResult] | None) -> None:
        self.outcomes = outcomes
        self.asked = 0

    async def ask(self, order: str, _: object = None) -> dict[int, PeerResult] | None:
        assert order == "reload"
        self.asked += 1
        return self.outcomes


async def post(state: ReloadState, others: Others | None) -> tuple[int, dict[str, Any]]:
    app = Starlette(routes=routes(Reloader(state), others))  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://admin") as client:
        answer = await client.post("/admin/reload")
    return answer.status_code, answer.json()


async def test_single_process_has_no_workers() -> None:
    status, shown = await post(GOOD, None)
    assert (status, "workers" in shown) == (200, False)


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        ({0: OK, 2: OK}, 200),
        ({0: OK, 2: {"result": "ended"}}, 200),
        ({0: OK, 2: {"result": "no answer"}}, 504),
        ({0: {"result": "failed", "problem": "gateway.yaml:3:1: ..."}, 2: {"result": "no answer"}}, 422),
        ({}, 200),
    ],
)
async def test_status_is_that_of_the_worst_worker_result(theirs: dict[int, PeerResult], expected: int) -> None:
    status, shown = await post(GOOD, Others(theirs))
    assert status == expected
    assert shown["workers"] == [{"worker": number, **outcome} for number, outcome in sorted({**theirs, 1: OK}.items())]
    assert (shown["digest"], shown["last"]["result"]) == ("new", "ok")


async def test_unreachable_workers_are_not_a_success() -> None:
    status, shown = await post(GOOD, Others(None))
    assert (status, shown["workers"]) == (504, [{"worker": 1, **OK}])


async def test_unusable_document_is_not_sent_to_the_other_workers() -> None:
    others = Others({0: OK})
    status, shown = await post(BAD, others)
    assert (status, others.asked) == (422, 0)
    assert shown["workers"] == [{"worker": 1, "result": "failed", "digest": "old", "generation": 1, "problem": str(PROBLEM)}]
    assert shown["last"]["problems"][0]["line"] == 3


def test_reload_result_stays_small() -> None:
    huge = Problem(file="f", line=1, column=1, path="p", message="m" * 10_000)
    assert len(outcome_of(ReloadState(digest="d", loaded_at=1.0, result="failed", problems=(huge, huge)))["problem"]) == 1000
