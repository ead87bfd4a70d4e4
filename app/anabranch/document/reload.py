"""Reloading: a new document takes over from the old one between two requests, or changes nothing at all.

Reading, checking and compiling happen in a thread; the new service is opened beside the old one; then one swap, in one turn of the loop; and
the old service is closed when its last request has ended. It does not know what asks for a reload, nor how requests find their service.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from time import monotonic, time
from typing import Any, Final, Literal, Protocol, Self

from anabranch.document.service import Service
from anabranch.errors import ConfigError, Problem

logger = logging.getLogger("anabranch.reload")

# Beyond the longest deadline of its endpoints, how long a service that was replaced may still be needed, in seconds.
_GRACE_S: Final = 1.0


class Replaced(Protocol):
    """What served until a swap."""

    @property
    def active(self) -> int:
        """Requests that run on it."""
        ...

    async def drained(self) -> None:
        """Return when no request runs on it any more."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadState:
    """Which document is in force, and how the last reload went.

    `digest`: of the document in force. `loaded_at`: when it was put in force, Unix time. `generation`: 1 for the first document, one more
    with each that took over. `succeeded`, `failed`: reloads so far. The rest is about the last reload and None or empty before the first:
    `result`, `trigger` (what asked for it), `finished_at` (Unix time), `elapsed_s`, `problems` (why it failed), `warnings` (of the document
    that it put in force). `retiring`: services that were replaced and still have requests.
    """

    digest: str
    loaded_at: float
    generation: int = 1
    succeeded: int = 0
    failed: int = 0
    result: Literal["ok", "failed"] | None = None
    trigger: str | None = None
    finished_at: float | None = None
    elapsed_s: float | None = None
    problems: tuple[Problem, ...] = field(default=())
    warnings: tuple[Problem, ...] = field(default=())
    retiring: int = 0

    @property
    def is_failed(self) -> bool:
        """The document on the disk is not the one in force, because it is not usable."""
        return self.result == "failed"


ReloadObserver = Callable[[ReloadState], None]


class Reloader:
    """Owns the service in force and those that it replaced. An async context manager: opens the first service, closes all of them.

    `prepare`: reads and compiles the document as it is now, and returns a service that is not open; called in a thread; raises ConfigError.
    `swap`: puts a service in force, for every request that begins from now on, and returns what served until now; it cannot fail.
    `linger_s`: the least time that requests on a replaced service get to end. `observer`: told of every reload's end.
    """

    def __init__(
        self,
        first: Service,
        *,
        prepare: Callable[[], Service],
        swap: Callable[[Service], Replaced],
        linger_s: float,
        observer: ReloadObserver | None = None,
    ) -> None:
        self.service = first
        self.state = ReloadState(digest=first.digest, loaded_at=time(), warnings=first.warnings)
        self._prepare = prepare
        self._swap = swap
        self._linger_s = linger_s
        self._observers = [] if observer is None else [observer]
        self._lock = asyncio.Lock()
        self._asked = 0
        self._begun = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._retiring = 0

    async def __aenter__(self) -> Self:
        await self.service.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        await self.service.__aexit__(None, None, None)

    def observe(self, observer: ReloadObserver) -> None:
        """Tell `observer` the state after every reload from now on. It must be quick and must not raise."""
        self._observers.append(observer)

    def request(self, trigger: str) -> None:
        """Ask for a reload and do not wait for it, as a signal handler does."""
        self._spawn(self._in_turn(trigger))

    async def reload(self, trigger: str) -> ReloadState:
        """Load the document as it is now. Never raises for a bad one: the state says what was wrong with it.

        Reloads run one after the other. Those that are asked for while one runs share the next: it reads what is there by then.
        Cancellation of the caller leaves the reload going.
        """
        await asyncio.shield(self._spawn(self._in_turn(trigger)))
        return self.state

    async def _in_turn(self, trigger: str) -> None:
        self._asked += 1
        number = self._asked
        async with self._lock:
            if self._begun < number:
                self._begun = self._asked
                await self._reload(trigger)

    async def _reload(self, trigger: str) -> None:
        began = monotonic()
        try:
            service = await asyncio.to_thread(self._prepare)
            await service.__aenter__()
        except ConfigError as error:
            self._failed(trigger, began, tuple(error.problems))
        except Exception as error:
            logger.exception("the reload failed unexpectedly")
            self._failed(trigger, began, (_unexpected(error),))
        else:
            self._replace(service, trigger, began)

    def _replace(self, service: Service, trigger: str, began: float) -> None:
        old, self.service = self.service, service
        replaced = self._swap(service)
        self._retiring += 1
        self._spawn(self._retire(old, replaced))
        before = self.state
        self._tell(
            ReloadState(
                digest=service.digest,
                loaded_at=time(),
                generation=before.generation + 1,
                succeeded=before.succeeded + 1,
                failed=before.failed,
                result="ok",
                trigger=trigger,
                finished_at=time(),
                elapsed_s=monotonic() - began,
                warnings=service.warnings,
                retiring=self._retiring,
            )
        )
        for warning in service.warnings:
            logger.warning("%s", warning)
        logger.info("reloaded the document (%s): generation %d, digest %s", trigger, self.state.generation, service.digest[:12])

    def _failed(self, trigger: str, began: float, problems: tuple[Problem, ...]) -> None:
        before = self.state
        # Whoever watches looks again at every sign from the folders while a document is broken. Were the same problems told again, a log
        # that is written into one of those folders would be such a sign itself, for ever.
        if trigger != "watch" or problems != before.problems:
            for problem in problems:
                logger.error("%s", problem)
            logger.error(
                "the new document is not usable (%s, %d problems): the old one stays in force, digest %s",
                trigger, len(problems), before.digest[:12],
            )  # fmt: skip
        self._tell(
            ReloadState(
                digest=before.digest,
                loaded_at=before.loaded_at,
                generation=before.generation,
                succeeded=before.succeeded,
                failed=before.failed + 1,
                result="failed",
                trigger=trigger,
                finished_at=time(),
                elapsed_s=monotonic() - began,
                problems=problems,
                warnings=before.warnings,
                retiring=self._retiring,
            )
        )

    def _tell(self, state: ReloadState) -> None:
        self.state = state
        for observer in self._observers:
            observer(state)

    async def _retire(self, old: Service, replaced: Replaced) -> None:
        limit_s = max(self._linger_s, old.longest_timeout_s + _GRACE_S)
        try:
            async with asyncio.timeout(limit_s):
                await replaced.drained()
        except TimeoutError:
            logger.warning("%d requests on a document that was replaced %.1f s ago are cut off", replaced.active, limit_s)
        finally:
            self._retiring -= 1
            await old.__aexit__(None, None, None)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _unexpected(error: Exception) -> Problem:
    return Problem(
        file="document", line=1, column=1, path="", message=f"the reload failed unexpectedly: {type(error).__name__}", hint="see the log"
    )
