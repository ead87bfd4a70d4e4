"""What the guards of one document share: a room of its service."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Final, Self

from anabranch.config.auth import Authentication, access_of
from anabranch.core.forwarding import TrustedProxies
from anabranch.core.metric import Sample, Sampled, metric
from anabranch.core.rate import Rate
from anabranch.document.part import Noted
from anabranch.document.service import Service
from anabranch.guard.auth.checkpoint import Checkpoint, Refusals
from anabranch.guard.auth.failures import FailureLimit
from anabranch.guard.auth.kinds import build_authenticator
from anabranch.guard.tally import Tally
from anabranch.guard.tools import Tools

FAILURES: Final = metric(
    "counter", "authentication_failures", "auth reason", "Credentials that were refused, by the name of the authentication."
)


class Guarding:
    """An async context manager, open as long as the service. `authenticators`: by their names in the document. `default`: names of those of which a client needs one
    where nothing else is said; empty: none. `tally`: of limits and rules. `failures`: how many credentials of one address may be refused; None: any number."""

    def __init__(self, auth: Mapping[str, Authentication], tools: Tools, default: Sequence[str] = (), failures: Rate | None = None) -> None:
        self.tools = tools
        self.default = tuple(default)
        self.authenticators = {name: build_authenticator(name, source.kind, tools) for name, source in auth.items()}
        self.tally = Tally()
        self._refusals = Refusals()
        self._failures = None if failures is None else FailureLimit(failures, tools.memory, self.tally)
        self._checkpoints: dict[tuple[str, ...], Checkpoint] = {}
        self._exits = AsyncExitStack()

    def checkpoint(self, names: Sequence[str]) -> Checkpoint:
        """What asks for one of these authentications. The same one for the same names."""
        key = tuple(names)
        found = self._checkpoints.get(key)
        if found is None:
            found = self._checkpoints[key] = Checkpoint({name: self.authenticators[name] for name in key}, self._refusals, self._failures)
        return found

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as exits:
            for authenticator in self.authenticators.values():
                if isinstance(authenticator, AbstractAsyncContextManager):
                    await exits.enter_async_context(authenticator)
            self._exits = exits.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()

    def samples(self) -> Iterator[Sample]:
        """See `core.metric.Sampled`."""
        for (name, reason), count in self._refusals.counts.items():
            yield Sample(FAILURES, (name, reason), count)
        yield from self.tally.samples()
        for authenticator in self.authenticators.values():
            if isinstance(authenticator, Sampled):
                yield from authenticator.samples()

    def notes(self) -> Iterator[str]:
        """See `document.part.Noted`."""
        for authenticator in self.authenticators.values():
            if isinstance(authenticator, Noted):
                yield from authenticator.notes()


def guarding_of(service: Service, *, workers: int, proxies: TrustedProxies) -> Guarding:
    """The room of a service. See `Tools`."""
    default = access_of(service.plan.source.defaults.auth)
    tools = Tools(memory=service.memory, shared=service.store, workers=workers, proxies=proxies)
    return Guarding(service.plan.auth, tools, () if default is None else default.any_, service.plan.auth_failures)
