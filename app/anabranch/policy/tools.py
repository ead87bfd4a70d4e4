"""What the layers of one upstream share when they are built."""

from collections.abc import Callable
from dataclasses import dataclass

from anabranch.cache.entries import Entries
from anabranch.policy.event import Observer
from anabranch.upstream.seam import Transport


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """`transport`: of the upstream. `clock`: the loop's `time`, which deadlines refer to. `random`: draws from [0, 1). `observer`: called for
    each policy event; may be None. `authority`: a transport for the token endpoint; None uses the upstream's. `entries`: stored answers;
    None if no call of the upstream uses them. `workers`: processes of this gateway, each of which calls the upstream."""

    transport: Transport
    clock: Callable[[], float]
    random: Callable[[], float]
    observer: Observer | None = None
    authority: Transport | None = None
    entries: Entries | None = None
    workers: int = 1
