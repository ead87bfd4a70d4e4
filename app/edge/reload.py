"""`/admin/reload`: ask for a reload, and see how the last one went. Routes for the admin application; they never stand on the public port."""

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.engine.reload import Reloader, ReloadState
from app.errors import Problem


def routes(reloader: Reloader) -> list[Route]:
    """`POST /admin/reload` answers 200 when the document as it is now is in force, 422 with every problem when it is not usable.
    `GET /admin/reload` shows the state."""

    async def show(request: Request) -> Response:
        return _answer(200, reloader.state)

    async def reload(request: Request) -> Response:
        state = await reloader.reload("admin")
        return _answer(422 if state.is_failed else 200, state)

    return [
        Route("/admin/reload", show, methods=["GET"], name="reload_state"),
        Route("/admin/reload", reload, methods=["POST"], name="reload"),
    ]


def _answer(status: int, state: ReloadState) -> Response:
    return Response(orjson.dumps(shown(state)), status, {"cache-control": "no-store"}, media_type="application/json")


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
