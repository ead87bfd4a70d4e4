"""`authenticated`: the FastAPI dependency by which a Python route asks who its client is.

@router.get("/me")
async def me(client: Annotated[Principal, Depends(authenticated("users"))]) -> str:
    return client.sub
"""

from collections.abc import Awaitable, Callable, Iterator

from fastapi import Request
from fastapi.dependencies.models import Dependant

from anabranch.core.principal import Principal

Find = Callable[[Request, tuple[str, ...]], Awaitable[Principal]]


class Authenticated:
    """The dependency. `names`: of authentications in the document's `auth`, of which one suffices; empty: those of `defaults.auth`."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    async def __call__(self, request: Request) -> Principal:
        """The client. Raises Unauthenticated, and Unavailable when it cannot be found out at the moment: the gateway answers with 401 and 503."""
        find: Find = request.app.find_principal
        return await find(request, self.names)


def authenticated(*names: str) -> Authenticated:
    """A dependency that gives the `Principal` of a request, and rejects requests without one with 401.

    `names`: of authentications in the document, of which one suffices; without any, those of `defaults.auth`. Its `allow` is for endpoints of the document: a route decides
    by itself what a client may do.
    """
    return Authenticated(names)


def asked_of(dependant: Dependant) -> Iterator[Authenticated]:
    """What a route asks of its clients, directly or by other dependencies."""
    for one in dependant.dependencies:
        if isinstance(one.call, Authenticated):
            yield one.call
        yield from asked_of(one)
