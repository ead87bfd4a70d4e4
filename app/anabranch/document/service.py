"""A service: everything that runs for the sake of one document. What a reload opens, puts in place, and closes when its last request ends.

Owns the upstreams and whatever else the document asks for. Knows nothing of the edge, and nothing of the service before it or after it.
"""

from contextlib import AsyncExitStack
from typing import Self

from anabranch.compute.offload import Offload
from anabranch.compute.pools import ComputePools, PoolMaker, make_pool
from anabranch.document.upstreams import Opener, Upstreams
from anabranch.engine.event import AroundStep
from anabranch.engine.python import UpstreamHandle, upstream_handles
from anabranch.engine.run import Engine
from anabranch.errors import Problem
from anabranch.journal.journal import Journal
from anabranch.journal.recorder import recorder_of
from anabranch.plan.model import DocumentPlan
from anabranch.policy.event import Observer
from anabranch.policy.stale import StaleStore
from anabranch.sinks.open import Shippers
from anabranch.upstream.open import open_transport


class Service:
    """An async context manager: opens what the plans of one document need, and closes it. Made without I/O, so also outside the loop.

    `plan`: the document compiled. `digest`: tells one document from another. `warnings`: what its writer may not have expected.
    `files`: absolute or relative paths of all that was read for it. `engine`: runs its plans, while the service is open.
    `upstream_handles`: its upstreams for routes in Python, while it is open. `journal`: None when no endpoint keeps records.
    `shippers`: None when it is not shipped anywhere. `stale`: remembers good answers; of its own when None.
    """

    def __init__(
        self,
        plan: DocumentPlan,
        *,
        digest: str = "",
        warnings: tuple[Problem, ...] = (),
        files: tuple[str, ...] = (),
        observer: Observer | None = None,
        around: AroundStep | None = None,
        opener: Opener = open_transport,
        pool_maker: PoolMaker = make_pool,
        journal: Journal | None = None,
        shippers: Shippers | None = None,
        stale: StaleStore | None = None,
    ) -> None:
        self.plan = plan
        self.digest = digest
        self.warnings = warnings
        self.files = files
        self.journal = journal
        self.recorder_of = None if journal is None else recorder_of(journal)
        self.shippers = shippers
        store = StaleStore(max_entries=plan.source.stale.entries, max_bytes=plan.source.stale.size) if stale is None else stale
        remembered = {step.upstream: store for endpoint in plan.endpoints for step in endpoint.steps if step.stale is not None}
        self.upstreams = Upstreams(plan.upstreams, observer=observer, opener=opener, stale=remembered)
        self.compute = ComputePools(plan.pools, make=pool_maker)
        self.offload = Offload()
        self.engine = Engine(self.upstreams.policies, around, self.compute.pools, self.offload)
        self.upstream_handles: dict[str, UpstreamHandle] = {}
        self._exits = AsyncExitStack()

    @property
    def longest_timeout_s(self) -> float:
        """The longest that a request to an endpoint of the document may take, in seconds."""
        return max((endpoint.timeout_s for endpoint in self.plan.endpoints), default=0.0)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as exits:
            # Left last: what the journal writes when it ends is still shipped.
            for shipper in () if self.shippers is None else self.shippers.each:
                await exits.enter_async_context(shipper)
            if self.journal is not None:
                await exits.enter_async_context(self.journal)
            await exits.enter_async_context(self.upstreams)
            await exits.enter_async_context(self.compute)
            exits.push_async_callback(self.offload.aclose)
            self.upstream_handles.update(upstream_handles(self.plan.upstreams, self.upstreams.policies))
            self._exits = exits.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()
