"""Reloading: a new document replaces the old one between two requests, or changes nothing at all.

Reading, checking and compiling happen in a thread. The new service is opened beside the old one and swapped in within one iteration of the
event loop. The old service is closed when its last request has ended.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from time import monotonic, time
from typing import Any, Final, Literal, Protocol, Self

from anabranch.core.metric import Sample, metric
from anabranch.core.tasks import cancel_and_wait
from anabranch.document.service import Service
from anabranch.errors import ConfigError, Problem, StartError

logger = logging.getLogger("anabranch.reload")

# Seconds that a replaced service stays open beyond the longest deadline of its endpoints.
_GRACE_S: Final = 1.0


RELOADS: Final = metric("counter", "reloads", "result", "Reloads of the document: `ok` or `failed`.")
RELOAD_FAILED: Final = metric("gauge", "reload_failed", "", "1 while the document on disk is not in force because it is not usable.")
GENERATION: Final = metric(
    "gauge", "document_generation", "", "1 for the document that the process started with; incremented by each successful reload."
)
LOADED: Final = metric("gauge", "document_loaded_seconds", "", "When the document in force was loaded, in seconds of Unix time.")
RETIRING: Final = metric("gauge", "services_retiring", "", "Replaced documents that still have requests in flight.")


class Replaced(Protocol):
    """The generation that a swap has replaced."""

    @property
    def active(self) -> int:
        """Requests still running on it."""
        ...

    async def drained(self) -> None:
        """Return when no request runs on it any more."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadState:
    """Which document is in force, and the result of the last reload.

    `digest`: of the document in force. `loaded_at`: when that document took effect, Unix time. `generation`: 1 for the first document,
    incremented by each successful reload. `succeeded`, `failed`: reloads so far. `warnings`: of the document in force. `retiring`: replaced
    services that still have requests.

    The other fields describe the last reload, and are None or empty before the first: `result`, `trigger` (what requested it),
    `finished_at` (Unix time), `elapsed_s`, `problems` (why it failed).
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
        """Whether the document on disk is not in force because it is not usable."""
        return self.result == "failed"


ReloadObserver = Callable[[ReloadState], None]


class Reloader:
    """Owns the service in force and the replaced ones. An async context manager: opens the first service, closes all of them. Entered again, it
    opens one for the document as it is then.

    `prepare`: reads and compiles the current document, and returns a service that is not open; called in a thread; raises ConfigError.
    `swap`: directs every request that begins from now on to a service, and returns the replaced generation; it must not fail. `linger_s`:
    minimum time that requests on a replaced service get to end, in seconds. `observer`: called after every reload.
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
        self._is_spent = False
        self._lock = asyncio.Lock()
        self._requested = 0
        self._started = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._retiring = 0

    async def __aenter__(self) -> Self:
        if self._is_spent:
            self.service = await asyncio.to_thread(self._prepare)
            self._swap(self.service)
        self._is_spent = True
        self._lock = asyncio.Lock()
        await self.service.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await cancel_and_wait(self._tasks)
        await self.service.__aexit__(None, None, None)

    def observe(self, observer: ReloadObserver) -> None:
        """Call `observer` with the state after every reload from now on. It must be quick and must not raise."""
        self._observers.append(observer)

    def request(self, trigger: str) -> None:
        """Request a reload without waiting for it, as a signal handler does."""
        self._spawn(self._in_turn(trigger))

    async def reload(self, trigger: str) -> ReloadState:
        """Load the current document. Never raises for an unusable one: the returned state has its problems.

        Reloads run one after the other. All reloads requested while one runs share the next, which reads the document as it is then.
        Cancelling the caller does not stop the reload.
        """
        await asyncio.shield(self._spawn(self._in_turn(trigger)))
        return self.state

    async def _in_turn(self, trigger: str) -> None:
        self._requested += 1
        number = self._requested
        async with self._lock:
            if self._started < number:
                self._started = self._requested
                await self._reload(trigger)

    async def _reload(self, trigger: str) -> None:
        began = monotonic()
        try:
            service = await asyncio.to_thread(self._prepare)
            await service.__aenter__()
        except ConfigError as error:
            self._failed(trigger, began, tuple(error.problems))
        except StartError as error:
            self._failed(trigger, began, (Problem(file="document", line=0, column=0, path="", message=str(error)),))
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
        self._notify(
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
        # While the document is broken, every change in the watched folders triggers a reload. If the log file is in one of these folders,
        # logging the same problems again would trigger the next reload, for ever.
        if trigger != "watch" or problems != before.problems:
            for problem in problems:
                logger.error("%s", problem)
            logger.error(
                "the new document is not usable (%s, %d problems): the old one stays in force, digest %s",
                trigger, len(problems), before.digest[:12],
            )  # fmt: skip
        self._notify(
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

    def _notify(self, state: ReloadState) -> None:
        self.state = state
        for observer in self._observers:
            observer(state)

    async def _retire(self, old: Service, replaced: Replaced) -> None:
        limit_s = max(self._linger_s, old.longest_timeout_s + _GRACE_S)
        try:
            async with asyncio.timeout(limit_s):
                await replaced.drained()
        except TimeoutError:
            logger.warning("cutting off %d requests on a document that was replaced %.1f s ago", replaced.active, limit_s)
        finally:
            self._retiring -= 1
            await old.__aexit__(None, None, None)

    def samples(self) -> Iterator[Sample]:
        """See `core.metric.Sampled`: of the reloads, and of the document in force."""
        state = self.state
        yield Sample(RELOADS, ("ok",), state.succeeded)
        yield Sample(RELOADS, ("failed",), state.failed)
        yield Sample(RELOAD_FAILED, (), float(state.is_failed))
        yield Sample(GENERATION, (), state.generation)
        yield Sample(LOADED, (), state.loaded_at)
        yield Sample(RETIRING, (), state.retiring)
        yield from self.service.samples()

    def notes(self) -> Iterator[str]:
        """What readiness says of them; it does not affect readiness."""
        if self.state.is_failed:
            yield "the document on disk is not usable; the previous one is still served"
        yield from self.service.notes()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _unexpected(error: Exception) -> Problem:
    return Problem(
        file="document", line=1, column=1, path="", message=f"the reload failed unexpectedly: {type(error).__name__}", hint="see the log"
    )
