"""The gate: how many requests may be under way at once, for the whole gateway or for one endpoint, and what the others are told.

It is decided on the head of a request alone, before its body is read and before anything is made for it: under overload the requests that
are turned away must cost little, or those that were let in do not get done. Places and queue are those of a bulkhead; it is asked for nothing
when there is no limit, because then no gate is built.
"""

import asyncio
import math
from collections.abc import Callable
from time import monotonic
from typing import Final, Protocol

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from anabranch.core.limit import FixedLimit
from anabranch.edge.problems import MEDIA_TYPE
from anabranch.errors import Overloaded, RejectedError
from anabranch.plan.routes import RESERVED
from anabranch.policy.bulkhead import RETRY_AFTER_S, Bulkhead

_OPEN_TO_ALL: Final = frozenset(RESERVED)
RETRY_AFTER: Final = str(math.ceil(RETRY_AFTER_S))
ADMITTED: Final = "anabranch.admitted"
"""Key of the scope of a request that was given a place before it was parsed."""
AT_LIMIT: Final = "the gateway has as many requests as it can take"


class _Backlog(Protocol):
    """What waits before the gate and is not a request yet."""

    def __len__(self) -> int: ...

    def serve(self) -> None: ...

    def admit_next(self) -> bool: ...


class Gate:
    """`limit` requests at once; at most `waiting` others wait, each at most `wait_s` seconds. `admitted`, `shed`: requests so far that got
    a place after waiting for it, and that got none."""

    __slots__ = ("_backlog", "_is_turn_of_backlog", "_limit", "admitted", "bulkhead", "shed", "try_enter", "wait_s", "waiting")

    def __init__(self, *, limit: int, waiting: int, wait_s: float) -> None:
        self.bulkhead = Bulkhead(FixedLimit(limit), queue=waiting, queue_timeout_s=wait_s)
        self.waiting = waiting
        self.wait_s = wait_s
        self.admitted = 0
        self.shed = 0
        self.try_enter: Callable[[], bool] = self.bulkhead.try_acquire
        """Take a place if one is free. To be followed by `leave` when it did."""
        self._limit = limit
        self._backlog: _Backlog | None = None
        self._is_turn_of_backlog = False

    @property
    def is_full(self) -> bool:
        return self.bulkhead.in_use >= self._limit

    @property
    def queued(self) -> int:
        """Requests that wait for a place, parsed or not."""
        return self.bulkhead.queued + (0 if self._backlog is None else len(self._backlog))

    def attach(self, backlog: _Backlog) -> None:
        """Let those in `backlog` have places too: in turns with the requests that wait, or clients that send many in line would have them all."""
        self._backlog = backlog

    async def enter(self) -> None:
        """Take a place, waiting for it if need be. To be followed by `leave`. Raises Overloaded; cancellation leaves the queue."""
        if self.try_enter():
            return
        try:
            await self.bulkhead.acquire(now=monotonic(), deadline=math.inf, is_required=True)
        except RejectedError as error:
            self.shed += 1
            raise Overloaded(AT_LIMIT, headers={"retry-after": RETRY_AFTER}) from error
        except asyncio.CancelledError:
            self._serve_backlog()  # with the place that it may have been given a moment ago
            raise
        self.admitted += 1

    def leave(self) -> None:
        backlog = self._backlog
        if backlog is not None and len(backlog) and self.bulkhead.queued:
            self._is_turn_of_backlog = not self._is_turn_of_backlog
            if not self._is_turn_of_backlog and backlog.admit_next():
                return
        self.bulkhead.release()
        self._serve_backlog()

    def _serve_backlog(self) -> None:
        backlog = self._backlog
        if backlog is not None and len(backlog):
            backlog.serve()


class GateKeeper:
    """Lets the requests of an application in through a gate. The gateway's own pages, health among them, are open to all.

    A scope that says `PLACE` has been let in already.
    """

    def __init__(self, app: ASGIApp, *, gate: Gate) -> None:
        self.app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gate = self._gate
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if ADMITTED not in scope and not gate.try_enter():
            if scope["path"][1:].split("/", 1)[0] in _OPEN_TO_ALL:
                await self.app(scope, receive, send)
                return
            try:
                await gate.enter()
            except Overloaded as error:
                await _reject(scope, send, error)
                return
        try:
            await self.app(scope, receive, send)
        finally:
            gate.leave()


async def _reject(scope: Scope, send: Send, error: Overloaded) -> None:
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), None)
    body = limit_problem(given)
    headers = [(b"content-type", MEDIA_TYPE), (b"retry-after", RETRY_AFTER.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def limit_problem(request_id: bytes | None) -> bytes:
    """The problem, made with as little work as possible. Its id is the client's own; none is made for it."""
    shown = {"type": f"/problems/{Overloaded.code}", "title": Overloaded.title, "status": Overloaded.status, "detail": AT_LIMIT}
    return orjson.dumps(shown if request_id is None else {**shown, "instance": request_id.decode("latin-1")})
