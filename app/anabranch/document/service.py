"""A service: everything that runs for one document. A reload opens it, swaps it in, and closes it when its last request has ended.

Owns the upstreams and everything else that the document enables. Must not import the edge.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import Self, TypeVar

from anabranch.cache.entries import Entries
from anabranch.cache.memory import Memory
from anabranch.compute.offload import Offload
from anabranch.compute.pools import ComputePools, PoolMaker, make_pool
from anabranch.core.metric import Sample, Sampled
from anabranch.document.part import Noted, Part
from anabranch.document.upstreams import Opener, Upstreams
from anabranch.engine.event import AroundStep
from anabranch.engine.python import UpstreamHandle, upstream_handles
from anabranch.engine.run import Engine
from anabranch.errors import Problem
from anabranch.journal.journal import Journal
from anabranch.journal.recorder import recorder_of
from anabranch.plan.model import DocumentPlan
from anabranch.policy.event import Observer
from anabranch.sinks.open import Shippers
from anabranch.store.memory import MemoryStore
from anabranch.store.seam import Store
from anabranch.upstream.open import open_transport
from anabranch.upstream.seam import Transport


def _unchanged(transport: Transport) -> Transport:
    return transport


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What watches a service. `policy`: the events of the policy layers. `around`: each step. `transport`: wraps a transport that was opened."""

    policy: Observer | None = None
    around: AroundStep | None = None
    transport: Callable[[Transport], Transport] = _unchanged


class Hiding:
    """Hides the secrets of a document from the log, from its creation until it is closed: while an old service finishes its last requests, its
    secrets are hidden along with those of its successor.

    `hide`: hides them and returns what shows them again.
    """

    def __init__(self, hide: Callable[[], Callable[[], None]]) -> None:
        self._hide = hide
        self._show: Callable[[], None] | None = hide()

    async def __aenter__(self) -> Self:
        self._show = self._show or self._hide()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._show is not None:
            self._show()
        self._show = None


Room = Callable[["Service"], Part | None]
"""Makes the part of another room for a service that is not open yet; None where the document has nothing for it."""
P = TypeVar("P")


class Service:
    """An async context manager: opens what the plans of one document need, and closes it. Creating it does no I/O and needs no event loop.

    `plan`: the compiled document. `digest`: identifies the document's content. `warnings`: settings that its author may not have intended.
    `files`: absolute or relative paths of all files read for it. `engine`: runs its plans, while the service is open.
    `upstream_handles`: its upstreams for Python routes, while the service is open. `journal`: None when no endpoint keeps records.
    `opener`: see `Upstreams`. `is_offline`: no name of an upstream is resolved. `shippers`: None when the journal is not shipped. `cached`: the memory for stored
    answers; None: no call is answered from one. `memory`: the store of this process; None: a new one. `store`: the one that is shared; None: the document
    has none. `hiding`: hides the document's secrets; None: nothing does. `workers`: processes of this gateway. `rooms`: make what further rooms run for the document. `parts`: all of it that is
    opened and closed, in the order of opening. To add a part to every service, add it there.
    """

    def __init__(
        self,
        plan: DocumentPlan,
        *,
        digest: str = "",
        warnings: tuple[Problem, ...] = (),
        files: tuple[str, ...] = (),
        hooks: Hooks = Hooks(),
        opener: Opener = open_transport,
        is_offline: bool = False,
        pool_maker: PoolMaker = make_pool,
        journal: Journal | None = None,
        shippers: Shippers | None = None,
        cached: Memory | None = None,
        memory: MemoryStore | None = None,
        store: Store | None = None,
        hiding: Hiding | None = None,
        rooms: Sequence[Room] = (),
        workers: int = 1,
    ) -> None:
        self.plan = plan
        self.digest = digest
        self.warnings = warnings
        self.files = files
        self.journal = journal
        self.recorder_of = None if journal is None else recorder_of(journal)
        self.shippers = shippers
        self.memory = MemoryStore() if memory is None else memory
        self.store = store
        self.entries = None if cached is None else Entries(cached, shared=store if plan.is_cache_shared else None)
        self.upstreams = Upstreams(
            plan.upstreams,
            observer=hooks.policy,
            opener=lambda upstream: hooks.transport(opener(upstream)),
            resolves_names=not is_offline,
            entries=self.entries,
            workers=workers,
        )
        self.compute = ComputePools(plan.pools, make=pool_maker)
        self.offload = Offload()
        self.engine = Engine(self.upstreams.policies, hooks.around, self.compute.pools, self.offload)
        self.upstream_handles: dict[str, UpstreamHandle] = {}
        # The store of the process outlives the service.
        connected = store if isinstance(store, AbstractAsyncContextManager) else None
        # The shippers are closed after the journal, so that they still ship what it writes while it closes. Secrets are shown last of all.
        own: tuple[Part | None, ...] = (hiding, shippers, journal, connected, self.entries, self.upstreams, self.compute, self.offload)
        parts = (*own, *(room(self) for room in rooms))
        self.parts: tuple[Part, ...] = tuple(part for part in parts if part is not None)
        self._exits = AsyncExitStack()

    def find(self, kind: type[P]) -> P | None:
        """Its part of this class; None if it has none."""
        return next((part for part in self.parts if isinstance(part, kind)), None)

    @property
    def longest_timeout_s(self) -> float:
        """The longest timeout of the document's endpoints, in seconds."""
        return max((endpoint.timeout_s for endpoint in self.plan.endpoints), default=0.0)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as exits:
            for part in self.parts:
                await exits.enter_async_context(part)
            self.upstream_handles.update(upstream_handles(self.plan.upstreams, self.upstreams.policies))
            if self.entries is not None:
                self.entries.memory.bound(self.plan.cache)
            self._exits = exits.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()

    def samples(self) -> Iterator[Sample]:
        """See `core.metric.Sampled`."""
        for part in self.parts:
            if isinstance(part, Sampled):
                yield from part.samples()

    def notes(self) -> Iterator[str]:
        """See `Noted`."""
        for part in self.parts:
            if isinstance(part, Noted):
                yield from part.notes()
