"""Admission control: caps concurrent requests, for the gateway or one endpoint, and rejects the rest with 503.

Rejection must be cheap under overload. Decided from the request head, before the body is read. Not built when no limit is set. Slots and
queue are those of a `Bulkhead`.
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
"""Key in the scope of a request whose slot was acquired before it was parsed."""
AT_LIMIT: Final = "the limit of concurrent requests is reached"


class _Backlog(Protocol):
    """Connections whose next request waits for a slot and has not been parsed yet."""

    def __len__(self) -> int: ...

    def serve(self) -> None: ...

    def admit_next(self) -> bool: ...


class Gate:
    """Admits `limit` concurrent requests. At most `waiting` more wait for a slot, each for at most `wait_s` seconds.

    `admitted`: requests so far that got a slot after waiting. `shed`: requests so far that were rejected.
    """

    __slots__ = ("_backlog", "_is_turn_of_backlog", "_limit", "admitted", "bulkhead", "shed", "try_enter", "wait_s", "waiting")

    def __init__(self, *, limit: int, waiting: int, wait_s: float) -> None:
        self.bulkhead = Bulkhead(FixedLimit(limit), queue=waiting, queue_timeout_s=wait_s)
        self.waiting = waiting
        self.wait_s = wait_s
        self.admitted = 0
        self.shed = 0
        self.try_enter: Callable[[], bool] = self.bulkhead.try_acquire
        """Acquire a slot if one is free; True if it did, and then `leave` must follow."""
        self._limit = limit
        self._backlog: _Backlog | None = None
        self._is_turn_of_backlog = False

    @property
    def is_full(self) -> bool:
        return self.bulkhead.in_use >= self._limit

    @property
    def queued(self) -> int:
        """Requests that wait for a slot, parsed or not."""
        return self.bulkhead.queued + (0 if self._backlog is None else len(self._backlog))

    def attach(self, backlog: _Backlog) -> None:
        """Share the slots with the unparsed requests in `backlog`.

        While parsed and unparsed requests wait, slots go to them in turn, so that clients which pipeline requests cannot take all of them.
        """
        self._backlog = backlog

    async def enter(self) -> None:
        """Acquire a slot, waiting if necessary; `leave` must follow. Raises Overloaded. Cancellation removes the request from the queue."""
        if self.try_enter():
            return
        try:
            await self.bulkhead.acquire(now=monotonic(), deadline=math.inf, is_required=True)
        except RejectedError as error:
            self.shed += 1
            raise Overloaded(AT_LIMIT, headers={"retry-after": RETRY_AFTER}) from error
        except asyncio.CancelledError:
            self._serve_backlog()  # a slot handed over just before the cancellation is free again
            raise
        self.admitted += 1

    def leave(self) -> None:
        """Release the slot, or hand it to the next waiting request."""
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
    """ASGI middleware: admits the requests of an application through a gate, or answers 503.

    The gateway's own pages, health included, use a slot when one is free but are never queued or rejected. A scope with `ADMITTED` already
    holds a slot.
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
    request_id = next((value for name, value in scope["headers"] if name == b"x-request-id"), None)
    body = limit_problem(request_id)
    headers = [(b"content-type", MEDIA_TYPE), (b"retry-after", RETRY_AFTER.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def limit_problem(request_id: bytes | None) -> bytes:
    """The body of the 503, made with as little work as possible. `instance` is the client's own request id; without one it is left out."""
    problem = {"type": f"/problems/{Overloaded.code}", "title": Overloaded.title, "status": Overloaded.status, "detail": AT_LIMIT}
    return orjson.dumps(problem if request_id is None else {**problem, "instance": request_id.decode("latin-1")})
