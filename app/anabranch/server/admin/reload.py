"""`/admin/reload`: requests a reload, and shows the result of the last one. Routes for the admin application, never for the public port."""

from typing import Any, Final, Protocol

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from anabranch.document.reload import Reloader, ReloadState
from anabranch.errors import Problem
from anabranch.server.peers import NO_ANSWER, PeerResult

_LONGEST_PROBLEM: Final = 1000


class Others(Protocol):
    """The other workers, as seen from this one. `number`: this worker's own."""

    @property
    def number(self) -> int: ...

    async def ask(self, order: str, argument: Any = None) -> dict[int, PeerResult] | None:
        """Make all of them do something; returns the outcomes by worker number, or None when they could not be reached."""
        ...


def routes(reloader: Reloader, others: Others | None = None) -> list[Route]:
    """`POST /admin/reload` answers 200 when the current document has taken effect, 422 with every problem when it is not usable.
    `GET /admin/reload` shows the state.

    `others`: reload too, once the document has proved usable here; then `workers` has an entry for each worker. 422 when one of them could
    not use it, 504 when one of them did not report.
    """

    async def show(request: Request) -> Response:
        return _answer(200, state_json(reloader.state))

    async def reload(request: Request) -> Response:
        state = await reloader.reload("admin")
        if others is None:
            return _answer(422 if state.is_failed else 200, state_json(state))
        outcomes = {others.number: outcome_of(state)}
        theirs = {} if state.is_failed else await others.ask("reload")
        outcomes |= theirs or {}
        results = {outcome["result"] for outcome in outcomes.values()}
        status = 422 if "failed" in results else 504 if theirs is None or NO_ANSWER in results else 200
        return _answer(status, {**state_json(state), "workers": [{"worker": number, **outcomes[number]} for number in sorted(outcomes)]})

    return [
        Route("/admin/reload", show, methods=["GET"], name="reload_state"),
        Route("/admin/reload", reload, methods=["POST"], name="reload"),
    ]


def outcome_of(state: ReloadState) -> PeerResult:
    """A summary of this worker's last reload. `problem`: the first one, when it failed; the worker's own `/admin/reload` shows all."""
    outcome: PeerResult = {"result": state.result, "digest": state.digest, "generation": state.generation}
    return {**outcome, "problem": str(state.problems[0])[:_LONGEST_PROBLEM]} if state.problems else outcome


def _answer(status: int, body: dict[str, object]) -> Response:
    return Response(orjson.dumps(body), status, {"cache-control": "no-store"}, media_type="application/json")


def state_json(state: ReloadState) -> dict[str, object]:
    """The state as JSON. It contains no secrets."""
    return {
        "digest": state.digest,
        "generation": state.generation,
        "loaded_at": state.loaded_at,
        "succeeded": state.succeeded,
        "failed": state.failed,
        "retiring": state.retiring,
        "last": None
        if state.result is None
        else {
            "result": state.result,
            "trigger": state.trigger,
            "finished_at": state.finished_at,
            "elapsed_s": state.elapsed_s,
            "problems": [_problem(problem) for problem in state.problems],
        },
        "warnings": [_problem(warning) for warning in state.warnings],
    }


def _problem(problem: Problem) -> dict[str, object]:
    return {
        "file": problem.file, "line": problem.line, "column": problem.column, "path": problem.path, "message": problem.message,
        "value": problem.value, "hint": problem.hint,
    }  # fmt: skip
