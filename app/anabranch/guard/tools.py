"""What guards are built with."""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import time

from anabranch.core.forwarding import TrustedProxies
from anabranch.plan.upstream import UpstreamPlan
from anabranch.store.memory import MemoryStore
from anabranch.store.seam import Store
from anabranch.upstream.open import open_transport
from anabranch.upstream.seam import Transport


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """`memory`: the store of this process, which outlives reloads. `shared`: the store that several gateways share; None: the document has none. `workers`: processes of this
    gateway, among which limits in memory are divided. `proxies`: in front of the gateway. `clock`: seconds since the epoch. `opener`: opens the way to an
    authority."""

    memory: MemoryStore = field(default_factory=MemoryStore)
    shared: Store | None = None
    workers: int = 1
    proxies: TrustedProxies = field(default_factory=TrustedProxies)
    clock: Callable[[], float] = time
    opener: Callable[[UpstreamPlan], Transport] = open_transport
