"""The gate: how many requests may be under way at once, for the whole gateway or for one endpoint, and what the others are told.

It is decided on the head of a request alone, before its body is read and before anything is made for it: under overload the requests that
are turned away must cost little, or those that were let in do not get done. Places and queue are those of a bulkhead; it is asked for nothing
when there is no limit, because then no gate is built.
"""

import asyncio
import math
from collections.abc import Callable
from time import monotonic
from typing import Final

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.limit import FixedLimit
from app.edge.problems import MEDIA_TYPE
from app.errors import Overloaded, RejectedError
from app.plan.routes import RESERVED
from app.policy.bulkhead import RETRY_AFTER_S, Bulkhead

_OPEN_TO_ALL: Final = frozenset(RESERVED)
_QUICK_PER_S: Final = 200
"""Requests that are turned away at once in each second."""
_HOLD_S: Final = RETRY_AFTER_S
_MOST_HELD: Final = 4096
"""Held at once: what they take of the memory has a bound."""
_RETRY_AFTER: Final = str(math.ceil(RETRY_AFTER_S))


class Gate:
    """`limit` requests at once; at most `waiting` others wait, each at most `wait_s` seconds. `admitted`, `shed`: requests so far that got
    a place after waiting for it, and that got none."""

    __slots__ = ("admitted", "bulkhead", "shed", "try_enter")

    def __init__(self, *, limit: int, waiting: int, wait_s: float) -> None:
        self.bulkhead = Bulkhead(FixedLimit(limit), queue=waiting, queue_timeout_s=wait_s)
        self.admitted = 0
        self.shed = 0
        self.try_enter: Callable[[], bool] = self.bulkhead.try_acquire
        """Take a place if one is free. To be followed by `leave` when it did."""

    async def enter(self) -> None:
        """Take a place, waiting for it if need be. To be followed by `leave`. Raises Overloaded; cancellation leaves the queue."""
        if self.try_enter():
            return
        try:
            await self.bulkhead.acquire(now=monotonic(), deadline=math.inf, is_required=True)
        except RejectedError as error:
            self.shed += 1
            raise Overloaded("the gateway has as many requests as it can take", headers={"retry-after": _RETRY_AFTER}) from error
        self.admitted += 1

    def leave(self) -> None:
        self.bulkhead.release()


class GateKeeper:
    """Lets the requests of an application in through a gate. The gateway's own pages, health among them, are open to all."""

    def __init__(self, app: ASGIApp, *, gate: Gate) -> None:
        self.app = app
        self._gate = gate
        self._held = 0
        self._quick = 0
        self._second = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gate = self._gate
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if not gate.try_enter():
            if scope["path"][1:].split("/", 1)[0] in _OPEN_TO_ALL:
                await self.app(scope, receive, send)
                return
            try:
                await gate.enter()
            except Overloaded as error:
                await self._hold()
                await _turn_away(scope, send, error)
                return
        try:
            await self.app(scope, receive, send)
        finally:
            gate.leave()

    async def _hold(self) -> None:
        """Return at once while few are turned away, and after a second when they are many.

        Turning one away costs a quarter of what an answer costs. Clients that come back at once, and many do, would make the gateway
        spend its time on that instead of on those that it let in; a client that waits for its answer cannot ask again.
        """
        now = monotonic()
        if now - self._second >= 1.0:
            self._second = now
            self._quick = 0
        self._quick += 1
        if self._quick <= _QUICK_PER_S or self._held >= _MOST_HELD:
            return
        self._held += 1
        try:
            await asyncio.sleep(_HOLD_S)
        finally:
            self._held -= 1


async def _turn_away(scope: Scope, send: Send, error: Overloaded) -> None:
    """The problem, made with as little work as possible. Its id is the client's own; none is made for it."""
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), None)
    body = _problem(error, None if given is None else given.decode("latin-1"))
    headers = [(b"content-type", MEDIA_TYPE), (b"retry-after", _RETRY_AFTER.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def _problem(error: Overloaded, request_id: str | None) -> bytes:
    shown = {"type": f"/problems/{error.code}", "title": error.title, "status": error.status, "detail": error.detail}
    return orjson.dumps(shown if request_id is None else {**shown, "instance": request_id})
