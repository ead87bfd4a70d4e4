"""The upstreams of one document, open: transports and the policy stacks around them. Owns both.

Time is `time.monotonic`, which the event loops count by as well: uvloop's own `time()` is the same clock, but rounded to milliseconds and
as old as the current turn of the loop.
"""

import random
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from time import monotonic
from typing import Self

from app.config import model as config
from app.policy.call import Policy
from app.policy.event import Observer
from app.policy.stack import Stack, build_stack
from app.upstream.open import open_transport
from app.upstream.seam import Transport

Opener = Callable[[config.Upstream], Transport]


class Upstreams:
    """An async context manager. `policies`: by the upstream's name, filled while it is open; the same mapping for its whole life.

    `opener`: makes the transport of an upstream; a test may put another one in.
    """

    def __init__(
        self, upstreams: Mapping[str, config.Upstream], *, observer: Observer | None = None, opener: Opener = open_transport
    ) -> None:
        self._upstreams = upstreams
        self._observer = observer
        self._opener = opener
        self._exits = AsyncExitStack()
        self.policies: dict[str, Policy] = {}
        self.stacks: dict[str, Stack] = {}

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as exits:
            for name, upstream in self._upstreams.items():
                transport = self._opener(upstream)
                exits.push_async_callback(transport.aclose)
                stack = build_stack(name, upstream, transport, clock=monotonic, random=random.random, observer=self._observer)
                exits.push_async_callback(stack.aclose)
                self.stacks[name] = stack
                self.policies[name] = stack.call
            self._exits = exits.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()
        self.policies.clear()
        self.stacks.clear()
