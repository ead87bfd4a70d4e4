"""Finds the principal of a request by the authentications that an endpoint accepts."""

import logging
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Final

from anabranch.core.forwarding import Client
from anabranch.core.principal import Principal
from anabranch.errors import Unauthenticated, Unavailable
from anabranch.guard.auth.failures import FailureLimit
from anabranch.guard.auth.seam import Authenticator, CannotAuthenticate, InvalidCredential, Presented

logger = logging.getLogger("anabranch.guard")

_QUIET_S: Final = 10.0


class Refusals:
    """Credentials that were refused, by authentication and reason. Logs the first of each kind at once, then at most one line in ten seconds with how many there were:
    whoever guesses must not fill the log. `clock`: in seconds."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self.counts: dict[tuple[str, str], int] = {}
        self._clock = clock
        self._logged: dict[tuple[str, str], tuple[float, int]] = {}

    def add(self, name: str, reason: str, sender: Client) -> None:
        key = (name, reason)
        count = self.counts[key] = self.counts.get(key, 0) + 1
        now = self._clock()
        logged_at, logged = self._logged.get(key, (-_QUIET_S, 0))
        if now - logged_at >= _QUIET_S:
            self._logged[key] = now, count
            address = sender.ip or "an unknown address"
            logger.warning(
                "credentials refused by auth %s: %s, %d since the last line, the last one from %s", name, reason, count - logged, address
            )


class Checkpoint:
    """Finds the principal of a request: `authenticators` by name, of which one must accept it. `refusals`: counts and logs the credentials that are refused. `failures`:
    limits how many an address may send; None: nothing does."""

    def __init__(self, authenticators: Mapping[str, Authenticator], refusals: Refusals, failures: FailureLimit | None = None) -> None:
        self._authenticators = tuple(authenticators.items())
        self._refusals = refusals
        self._failures = failures

    def recall(self, presented: Presented) -> Principal | None:
        """The principal of a request whose credential was verified before; None for any other."""
        # The first one that accepts the request decides who the client is, whatever is remembered of others.
        for _, authenticator in self._authenticators:
            if (found := authenticator.recall(presented)) is not None:
                return found
            if authenticator.is_presented(presented):
                return None
        return None

    async def find(self, presented: Presented, sender: Client) -> Principal:
        """The principal. Raises Unauthenticated, Unavailable when no authentication accepts the request and one cannot tell, and RateLimited. `sender`: where it comes from."""
        if self._failures is None:
            return (await self._find(presented, sender))[0]
        return await self._failures.watch(sender.network, lambda: self._find(presented, sender))

    async def _find(self, presented: Presented, sender: Client) -> tuple[Principal, bool]:
        """The principal, and whether a credential was refused before it was found."""
        parameters: dict[str, str] = {}
        is_unknown = False
        for name, authenticator in self._authenticators:
            try:
                principal = authenticator.recall(presented) or await authenticator.authenticate(presented)
            except InvalidCredential as error:
                self._refusals.add(name, error.reason, sender)
                parameters[name] = error.challenge
            except CannotAuthenticate as error:
                self._refusals.add(name, error.reason, sender)
                is_unknown = True
            else:
                if principal is not None:
                    return principal, bool(parameters)
        if is_unknown:
            raise Unavailable("the credential cannot be verified at the moment", headers={"retry-after": "1"})
        challenges = dict.fromkeys(
            ", ".join(filter(None, (authenticator.challenge, parameters.get(name)))) for name, authenticator in self._authenticators
        )
        detail = "the credential is not valid" if parameters else "the request has no credential"
        refusal = Unauthenticated(detail, headers={"www-authenticate": ", ".join(challenges), "cache-control": "no-store"})
        refusal.is_refusal = bool(parameters)
        raise refusal
