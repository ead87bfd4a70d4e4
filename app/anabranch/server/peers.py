"""A worker's way to the other workers: it asks them, through the supervisor that all of them have a pipe to, to reload, and answers when asked.

What goes over a pipe is one small JSON object a message. From a worker: `ask` (its round) and `done` (for whom, with its outcome). To a worker:
`reload` (who asks, in which round), `asked` (the workers that were), `done` (one's outcome) and `ended` (a worker that is no more). The
supervisor's half of it is in `anabranch.server.workers`. Knows nothing of what a reload is.
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import time_ns
from typing import Any, Final, Protocol

import orjson

PATIENCE_S: Final = 30.0
"""How long a worker may take to say how its reload went. One that only starts is asked too, and answers when it is up."""
NO_ANSWER: Final = "no answer"
ENDED: Final = "ended"

PeerResult = dict[str, Any]
"""How a reload went in one worker, as JSON; `result` says it in a word."""


class Pipe(Protocol):
    """To the supervisor and back."""

    def fileno(self) -> int: ...

    def take(self) -> list[bytes] | None:
        """What came, without waiting; None when nothing more will come."""
        ...

    def admit_next(self, message: bytes) -> None:
        """Does not raise, even if nobody is there any more."""
        ...


class Peers:
    """The other workers of this one. `number`: its own. To be used in the loop's thread only."""

    def __init__(self, pipe: Pipe, number: int, *, patience_s: float = PATIENCE_S) -> None:
        self.number = number
        self._pipe = pipe
        self._patience_s = patience_s
        self._reload: Callable[[], Awaitable[PeerResult]] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = asyncio.Lock()
        self._round = time_ns()  # so that nothing that was said to a predecessor of the same number is taken for ours
        self._waiting: set[int] | None = None
        self._outcomes: dict[int, PeerResult] = {}
        self._is_told: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def listen(self, reload: Callable[[], Awaitable[PeerResult]]) -> None:
        """From now on, `reload` when another worker asks for it. Called in the loop."""
        self._reload = reload
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._pipe.fileno(), self._read)

    def close(self) -> None:
        """Hear nothing more: this worker ends. Who waits for an answer gets what is there."""
        if self._loop is not None:
            self._loop.remove_reader(self._pipe.fileno())
            self._loop = None
        self._tell()

    async def reload(self) -> dict[int, PeerResult] | None:
        """Let every other worker reload, and return how that went, by number; None when the supervisor could not be reached.

        Instead of an outcome of its own a worker has the `result` `no answer` when it has said nothing in time, and `ended` when it ended
        before it could: its successor begins with the document as it is now.
        """
        async with self._lock:
            loop = asyncio.get_running_loop()
            self._round += 1
            self._waiting, self._outcomes = None, {}
            self._is_told = loop.create_future()
            try:
                if self._loop is not None:
                    self._send({"ask": self._round})
                    async with asyncio.timeout(self._patience_s):
                        await self._is_told
            except TimeoutError:
                pass
            finally:
                self._is_told = None
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
        if "reload" in message:
            task = asyncio.get_running_loop().create_task(self._answer(message["reload"]))
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
            self._tell()

    def _settle(self, number: int, outcome: PeerResult) -> None:
        if self._waiting is not None and number in self._waiting:
            self._waiting.discard(number)
            self._outcomes[number] = outcome

    def _tell(self) -> None:
        if self._is_told is not None and not self._is_told.done():
            self._is_told.set_result(None)

    async def _answer(self, asked_by: list[int]) -> None:
        assert self._reload is not None
        outcome = await self._reload()
        self._send({"done": asked_by, "outcome": outcome})

    def _send(self, message: dict[str, Any]) -> None:
        self._pipe.admit_next(orjson.dumps(message))
