"""One request on its way through a plan, whoever started it: a client, a replay."""

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from anabranch.engine.outcome import Outcome
from anabranch.jsontext.frame import Frame
from anabranch.plan.model import EndpointPlan, HeaderPairs, StepPlan

_PREFIX_CHARS: Final = frozenset(b"/-._~!$&'()*+,;=:@%0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_LONGEST_PREFIX: Final = 512


def public_prefix(forwarded: bytes | None, root_path: str) -> str:
    """The path below which the client sees the gateway: the prefix that a proxy has stripped, as it says in `X-Forwarded-Prefix`, and where the
    application is mounted.

    Only a plain path counts: anything else, such as `//host`, would turn a link into one to somewhere else.
    """
    if forwarded is None or len(forwarded) > _LONGEST_PREFIX or not _PREFIX_CHARS.issuperset(forwarded):
        return root_path
    prefix = forwarded.rstrip(b"/")
    return prefix.decode("ascii") + root_path if prefix.startswith(b"/") and not prefix.startswith(b"//") else root_path


class ClientRequest(msgspec.Struct):
    """What guards, parameters, steps and the journal know of a request. Lives until the response is sent.

    `id`: safe in a header field. `traceparent`: of its own span, else the client's valid one; None without either. `propagated`: the fields that every upstream call
    carries (request id, trace context). `path`, `query`: raw, as sent. `path_values`: of the path's parameters in order, decoded; None for one
    that is not UTF-8. `headers`: by lower-case name, repeated fields joined. `arrived`, `deadline`: monotonic time. `root_path`: where the application is mounted. `wants_notes`: the policies take notes, for explain. `body`: empty until it has been read. `releases`: called once each when
    the request ends, whatever ended it. `first_of`: the value of the first good member of an `any` step, before the deadline; None in endpoints without one.
    """

    id: bytes
    traceparent: bytes | None
    propagated: HeaderPairs
    method: str
    path: bytes
    query: bytes
    path_values: tuple[str | None, ...]
    headers: dict[bytes, bytes]
    plan: EndpointPlan
    frame: Frame
    arrived: float
    deadline: float
    root_path: str = ""
    wants_notes: bool = False
    body: bytes = b""
    releases: list[Callable[[], None]] | None = None
    first_of: Callable[[StepPlan, Outcome, float], Awaitable[bytes]] | None = None

    @property
    def prefix(self) -> str:
        """The path below which the client sees the gateway, for links in responses."""
        return public_prefix(self.headers.get(b"x-forwarded-prefix"), self.root_path)

    def on_end(self, release: Callable[[], None]) -> None:
        """Call `release` when the request ends. It must be quick and must not raise."""
        if self.releases is None:
            self.releases = []
        self.releases.append(release)

    def end(self) -> None:
        """Call the releases, the last one first."""
        releases, self.releases = self.releases, None
        while releases:
            releases.pop()()
