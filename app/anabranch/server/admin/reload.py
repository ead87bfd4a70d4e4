"""`/admin/reload`: ask for a reload, and see how the last one went. Routes for the admin application; they never stand on the public port."""

from typing import Final, Protocol

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from anabranch.document.reload import Reloader, ReloadState
from anabranch.errors import Problem
from anabranch.server.peers import NO_ANSWER, PeerResult

_LONGEST_PROBLEM: Final = 1000


class Others(Protocol):
    """The other workers of this one. `number`: its own."""

    @property
    def number(self) -> int: ...

    async def reload(self) -> dict[int, PeerResult] | None:
        """Let all of them reload; returns how that went, by number, or None when nobody could be reached."""
        ...


def routes(reloader: Reloader, others: Others | None = None) -> list[Route]:
    """`POST /admin/reload` answers 200 when the document as it is now is in force, 422 with every problem when it is not usable.
    `GET /admin/reload` shows the state.

    `others`: reload too, once the document has proved usable here; then `workers` has an entry for each. 422 when one of them could not use
    it, 504 when one of them does not say.
    """

    async def show(request: Request) -> Response:
        return _answer(200, shown(reloader.state))

    async def reload(request: Request) -> Response:
        state = await reloader.reload("admin")
        if others is None:
            return _answer(422 if state.is_failed else 200, shown(state))
        outcomes = {others.number: outcome_of(state)}
        theirs = {} if state.is_failed else await others.reload()
        outcomes |= theirs or {}
        results = {outcome["result"] for outcome in outcomes.values()}
        status = 422 if "failed" in results else 504 if theirs is None or NO_ANSWER in results else 200
        return _answer(status, {**shown(state), "workers": [{"worker": number, **outcomes[number]} for number in sorted(outcomes)]})

    return [
        Route("/admin/reload", show, methods=["GET"], name="reload_state"),
        Route("/admin/reload", reload, methods=["POST"], name="reload"),
    ]


def outcome_of(state: ReloadState) -> PeerResult:
    """How the last reload went in this worker, in short. `problem`: the first one, when it failed; its own `/admin/reload` has all."""
    outcome: PeerResult = {"result": state.result, "digest": state.digest, "generation": state.generation}
    return {**outcome, "problem": str(state.problems[0])[:_LONGEST_PROBLEM]} if state.problems else outcome


def _answer(status: int, body: dict[str, object]) -> Response:
    return Response(orjson.dumps(body), status, {"cache-control": "no-store"}, media_type="application/json")


def shown(state: ReloadState) -> dict[str, object]:
    """The state as JSON. Nothing in it is secret."""
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
