"""Runs the lifespan of an ASGI application without a server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.types import ASGIApp, Message


@asynccontextmanager
async def lifespan(app: ASGIApp) -> AsyncIterator[None]:
    """Start the application, and stop it on leaving. Passes on its exceptions; raises RuntimeError if it reports a failure without one.

    **Source:** ASGI lifespan protocol 2.0.
    """
    requests: asyncio.Queue[Message] = asyncio.Queue()
    answers: asyncio.Queue[Message] = asyncio.Queue()
    scope: dict[str, Any] = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
    # The application opens and closes its resources in one task, even if setup and teardown of a fixture run in different ones.
    running = asyncio.ensure_future(app(scope, requests.get, answers.put))

    async def ask(kind: str) -> None:
        requests.put_nowait({"type": f"lifespan.{kind}"})
        answered = asyncio.ensure_future(answers.get())
        await asyncio.wait({running, answered}, return_when=asyncio.FIRST_COMPLETED)
        if not answered.done() or answered.result()["type"] != f"lifespan.{kind}.complete":
            answered.cancel()
            await running
            raise RuntimeError(f"the application failed at its {kind}")

    await ask("startup")
    try:
        yield
    finally:
        await ask("shutdown")
        await running
