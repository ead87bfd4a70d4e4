"""Finds the principal of a request by the authentications that an endpoint accepts."""

import logging
from collections.abc import Mapping

from anabranch.core.principal import Principal
from anabranch.errors import Unauthenticated, Unavailable
from anabranch.guard.auth.seam import Authenticator, CannotAuthenticate, InvalidCredential, Presented

logger = logging.getLogger("anabranch.guard")


class Checkpoint:
    """Finds the principal of a request: `authenticators` by name, of which one must accept it. `refused`: how many credentials were refused, by authentication and reason."""

    def __init__(self, authenticators: Mapping[str, Authenticator], refused: dict[tuple[str, str], int]) -> None:
        self._authenticators = tuple(authenticators.items())
        self._refused = refused
        self._first = self._authenticators[0][1].recall
        self._only = len(self._authenticators) == 1

    def recall(self, presented: Presented) -> Principal | None:
        if self._only:
            return self._first(presented)
        return next((found for _, one in self._authenticators if (found := one.recall(presented)) is not None), None)

    async def find(self, presented: Presented) -> Principal:
        """The principal. Raises Unauthenticated, and Unavailable when no authentication accepts the request and one cannot tell."""
        parameters: dict[str, str] = {}
        is_unknown = False
        for name, authenticator in self._authenticators:
            try:
                principal = await authenticator.authenticate(presented)
            except InvalidCredential as error:
                self._count(name, error.reason)
                parameters[name] = error.challenge
            except CannotAuthenticate as error:
                self._count(name, error.reason)
                is_unknown = True
            else:
                if principal is not None:
                    return principal
        if is_unknown:
            raise Unavailable("the credential cannot be verified at the moment", headers={"retry-after": "1"})
        challenges = dict.fromkeys(
            " ".join(filter(None, (authenticator.challenge, parameters.get(name, ""))))
            for name, authenticator in self._authenticators
            if authenticator.challenge
        )
        detail = "the credential is not valid" if parameters else "the request has no credential"
        raise Unauthenticated(detail, headers={"www-authenticate": ", ".join(challenges)} if challenges else {})

    def _count(self, name: str, reason: str) -> None:
        self._refused[name, reason] = self._refused.get((name, reason), 0) + 1
        logger.info("a credential of %s was refused: %s", name, reason)
