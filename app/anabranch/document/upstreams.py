"""The open upstreams of one document. Owns their transports, the policy stacks around them, and the resolvers of their addresses.

Time is `time.monotonic`, which the event loops use as well: uvloop's own `time()` is the same clock, but rounded to milliseconds and
updated only once per iteration of the loop.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from time import monotonic
from typing import Final, Protocol, Self, runtime_checkable

from anabranch.cache.entries import Entries
from anabranch.core.metric import Sample, metric
from anabranch.plan.upstream import UpstreamPlan, authority_of
from anabranch.policy.call import Policy
from anabranch.policy.event import Observer, PolicyEvent
from anabranch.policy.stack import Stack, build_stack
from anabranch.policy.tools import Tools
from anabranch.upstream.open import open_transport
from anabranch.upstream.resolve import Resolver
from anabranch.upstream.seam import Transport

Opener = Callable[[UpstreamPlan], Transport]
"""Makes the transport of an upstream, or of the authority that issues its tokens (`is_authority`)."""

# A token is a few kilobytes at most.
_MAX_TOKEN_RESPONSE_BYTES: Final = 64 * 1024


CONNECTIONS_OPEN: Final = metric("gauge", "connections_open", "upstream", "Open connections, including idle ones.")
CONNECTIONS_IDLE: Final = metric("gauge", "connections_idle", "upstream", "Idle keep-alive connections.")


@runtime_checkable
class Connections(Protocol):
    """A transport that can count its open connections."""

    @property
    def connections(self) -> int: ...

    @property
    def idle_connections(self) -> int: ...


def _innermost(transport: object) -> object:
    """The transport that owns the connections, inside any wrappers."""
    while (inner := getattr(transport, "inner", None)) is not None:
        transport = inner
    return transport


class Upstreams:
    """An async context manager. `policies`: by upstream name, filled while open; the same mapping object for its whole life.

    `opener`: creates the transport of an upstream; tests may replace it. `resolves_names`: false where nothing is connected to. `entries`: stored answers, of the upstreams with
    `has_cached_calls`. `workers`: processes of this gateway.
    """

    def __init__(
        self, upstreams: Mapping[str, UpstreamPlan], *, observer: Observer | None = None, opener: Opener = open_transport,
        resolves_names: bool = True, entries: Entries | None = None, workers: int = 1,
    ) -> None:  # fmt: skip
        self._upstreams = upstreams
        self._observer = observer
        self._opener = opener
        self._resolves_names = resolves_names
        self._entries = entries
        self._workers = workers
        self._exits = AsyncExitStack()
        self.policies: dict[str, Policy] = {}
        self.stacks: dict[str, Stack] = {}
        self.transports: dict[str, Transport] = {}

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as exits:
            for name, upstream in self._upstreams.items():
                transport = self._opener(upstream)
                exits.push_async_callback(transport.aclose)
                authority: Transport | None = None
                if upstream.oauth2 is not None:
                    authority = self._opener(authority_of(upstream, max_response_bytes=_MAX_TOKEN_RESPONSE_BYTES))
                    exits.push_async_callback(authority.aclose)
                tools = Tools(
                    transport=transport,
                    clock=monotonic,
                    random=random.random,
                    observer=self._observer,
                    authority=authority,
                    entries=self._entries if upstream.has_cached_calls else None,
                    workers=self._workers,
                )
                stack = build_stack(upstream, tools)
                exits.push_async_callback(stack.aclose)
                if self._resolves_names and upstream.dns_ttl_s is not None and stack.balance is not None:
                    resolver = Resolver(
                        upstream.addresses,
                        ttl_s=upstream.dns_ttl_s,
                        on_change=stack.balance.set_addresses,
                        random=random.random,
                        on_failure=self._failure_observer(name),
                    )
                    await exits.enter_async_context(resolver)
                self.stacks[name] = stack
                self.transports[name] = transport
                self.policies[name] = stack.call
            self._exits = exits.pop_all()
        return self

    def samples(self) -> Iterator[Sample]:
        """See `core.metric.Sampled`: of the policy layers, and of the connections."""
        for stack in self.stacks.values():
            yield from stack.samples()
        for name, outermost in self.transports.items():
            transport = _innermost(outermost)
            if isinstance(transport, Connections):
                yield Sample(CONNECTIONS_OPEN, (name,), transport.connections)
                yield Sample(CONNECTIONS_IDLE, (name,), transport.idle_connections)

    def _failure_observer(self, name: str) -> Callable[[str, str], None] | None:
        """A callback that reports to the observer that a host name of the upstream could not be resolved."""
        observer = self._observer
        if observer is None:
            return None
        return lambda _host, _reason: observer(PolicyEvent(upstream=name, kind="balance", reason="resolve_failed"))

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()
        self.policies.clear()
        self.stacks.clear()
        self.transports.clear()
