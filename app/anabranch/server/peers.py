"""Asks the other workers to do something, such as to reload, via the supervisor's pipes, and does it when another worker asks.

Each message on a pipe is one small JSON object. From a worker: `ask` (its round, and the order) and `done` (the asking worker and round, with the
outcome). To a worker: `order` (what to do, and the asking worker and round), `asked` (the workers that were asked), `done` (one worker's outcome) and
`ended` (a worker that has ended). The supervisor's side is in `anabranch.server.workers`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from time import time_ns
from typing import Any, Final, Protocol

import orjson

PATIENCE_S: Final = 30.0
"""Seconds within which a worker has to report what it was asked for. A worker that is still starting is asked too, and answers when it is up."""
NO_ANSWER: Final = "no answer"
ENDED: Final = "ended"

PeerResult = dict[str, Any]
"""What came of an order in one worker, as JSON; `result` is one word."""
Obey = Callable[[Any], Awaitable[PeerResult]]
"""Does what another worker asks for. Takes the order's argument, which is JSON."""


class Pipe(Protocol):
    """The pipe to the supervisor."""

    def fileno(self) -> int: ...

    def take(self) -> list[bytes] | None:
        """Received messages, without waiting; None when no more will come."""
        ...

    def forward(self, message: bytes) -> None:
        """Send a message. Does not raise, even when the supervisor is gone."""
        ...


class Peers:
    """The other workers, as seen from this one. `number`: this worker's own. To be used in the event loop's thread only."""

    def __init__(self, pipe: Pipe, number: int, *, patience_s: float = PATIENCE_S) -> None:
        self.number = number
        self._pipe = pipe
        self._patience_s = patience_s
        self._orders: Mapping[str, Obey] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = asyncio.Lock()
        self._round = time_ns()  # so that answers meant for a predecessor with the same number do not match
        self._waiting: set[int] | None = None
        self._outcomes: dict[int, PeerResult] = {}
        self._all_reported: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def listen(self, orders: Mapping[str, Obey]) -> None:
        """From now on, do what another worker asks for. `orders`: by name. To be called in the event loop."""
        self._orders = orders
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._pipe.fileno(), self._read)

    def close(self) -> None:
        """Stop listening: this worker is ending. An `ask` in progress returns the outcomes received so far."""
        if self._loop is not None:
            self._loop.remove_reader(self._pipe.fileno())
            self._loop = None
        self._notify()

    async def ask(self, order: str, argument: Any = None) -> dict[int, PeerResult] | None:
        """Make every other worker do something, and return the outcomes by worker number; None when the supervisor could not be reached.

        The `result` is `no answer` for a worker that did not report in time, and `ended` for one that ended first: its successor starts
        with the current document, and with nothing in its memory.
        """
        async with self._lock:
            loop = asyncio.get_running_loop()
            self._round += 1
            self._waiting, self._outcomes = None, {}
            self._all_reported = loop.create_future()
            try:
                if self._loop is not None:
                    self._send({"ask": self._round, "order": order, "argument": argument})
                    async with asyncio.timeout(self._patience_s):
                        await self._all_reported
            except TimeoutError:
                pass
            finally:
                self._all_reported = None
            missing = self._waiting
            return None if missing is None else self._outcomes | {number: {"result": NO_ANSWER} for number in missing}

    def _read(self) -> None:
        messages = self._pipe.take()
        if messages is None:
            self.close()
            return
        for message in messages:
            self._take(orjson.loads(message))

    def _take(self, message: dict[str, Any]) -> None:
        if "order" in message:
            task = asyncio.get_running_loop().create_task(self._obey(message["order"], message["argument"], message["by"]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif "asked" in message:
            if message["round"] == self._round:
                self._waiting = set(message["asked"])
        elif "done" in message:
            if message["done"] == self._round:
                self._settle(message["worker"], message["outcome"])
        elif "ended" in message:
            self._settle(message["ended"], {"result": ENDED})
        if self._waiting is not None and not self._waiting:
            self._notify()

    def _settle(self, number: int, outcome: PeerResult) -> None:
        if self._waiting is not None and number in self._waiting:
            self._waiting.discard(number)
            self._outcomes[number] = outcome

    def _notify(self) -> None:
        if self._all_reported is not None and not self._all_reported.done():
            self._all_reported.set_result(None)

    async def _obey(self, order: str, argument: Any, asked_by: list[int]) -> None:
        outcome = await self._orders[order](argument)
        self._send({"done": asked_by, "outcome": outcome})

    def _send(self, message: dict[str, Any]) -> None:
        self._pipe.forward(orjson.dumps(message))
