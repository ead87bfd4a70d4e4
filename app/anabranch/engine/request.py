"""One request on its way through a plan, whoever started it: a client, a replay."""

from collections.abc import Awaitable, Callable

import msgspec

from anabranch.core.certificate import ClientCertificate
from anabranch.core.forwarding import Arrival, public_prefix
from anabranch.core.principal import Principal
from anabranch.engine.outcome import Outcome
from anabranch.jsontext.frame import Frame
from anabranch.plan.model import EndpointPlan, HeaderPairs, StepPlan


class ClientRequest(msgspec.Struct):
    """What guards, parameters, steps and the journal know of a request. Lives until the response is sent.

    `id`: safe in a header field. `traceparent`: of its own span, else the client's valid one; None without either. `propagated`: the fields that every upstream call
    carries (request id, trace context). `path`, `query`: raw, as sent. `path_values`: of the path's parameters in order, decoded; None for one
    that is not UTF-8. `headers`: by lower-case name, repeated fields joined. `arrived`, `deadline`: monotonic time. `root_path`: where the application is mounted. `wants_notes`: the policies take notes, for explain. `body`: empty until it has been read. `releases`: called once each when
    the request ends, whatever ended it. `arrival`: what services may be told of the client; None when no client sent it, or no service is told. `first_of`: the
    value of the first good member of an `any` step, before the deadline; None in endpoints without one. `principal`: the client, once a guard has proven who
    it is; None where nobody asks. `told`: header fields that the response gets, whatever it is.
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
    arrival: Arrival | None = None
    body: bytes = b""
    releases: list[Callable[[], None]] | None = None
    principal: Principal | None = None
    told: list[tuple[bytes, bytes]] | None = None
    first_of: Callable[[StepPlan, Outcome, float], Awaitable[bytes]] | None = None

    @property
    def certificate(self) -> ClientCertificate | None:
        """With which the client has opened its connection."""
        return None if self.arrival is None else self.arrival.certificate

    @property
    def prefix(self) -> str:
        """The path below which the client sees the gateway, for links in responses."""
        return public_prefix(self.headers.get(b"x-forwarded-prefix"), self.root_path)

    def tell(self, name: bytes, value: bytes) -> None:
        """Add to a header field of the response, which is a list."""
        told = self.told
        if told is None:
            self.told = [(name, value)]
            return
        for index, (known, before) in enumerate(told):
            if known == name:
                told[index] = (name, b"%b, %b" % (before, value))
                return
        told.append((name, value))

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
