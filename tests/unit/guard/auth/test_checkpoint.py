"""Several authentications of one endpoint: which of them is asked, and how often."""

from dataclasses import dataclass, field

import pytest

from anabranch.core.certificate import ClientCertificate
from anabranch.core.forwarding import Client
from anabranch.core.principal import Principal
from anabranch.errors import Unauthenticated
from anabranch.guard.auth.checkpoint import Checkpoint, Refusals
from anabranch.guard.auth.seam import InvalidCredential, Presented

SENDER = Client(None, "", b"")


@dataclass
class Sent:
    headers: dict[bytes, bytes]
    query: bytes = b""
    certificate: ClientCertificate | None = None


@dataclass
class InField:
    """Accepts `good` in a header field, and remembers it. `asked`: what was verified."""

    name: str
    challenge: str = "Test"
    asked: list[bytes] = field(default_factory=list)
    remembered: dict[bytes, Principal] = field(default_factory=dict)

    def recall(self, presented: Presented) -> Principal | None:
        return self.remembered.get(presented.headers.get(self.name.encode(), b""))

    def is_presented(self, presented: Presented) -> bool:
        return self.name.encode() in presented.headers

    async def authenticate(self, presented: Presented) -> Principal | None:
        sent = presented.headers.get(self.name.encode())
        if sent is None:
            return None
        self.asked.append(sent)
        if sent != b"good":
            raise InvalidCredential("wrong")
        self.remembered[sent] = Principal(self.name, self.name, self.name)
        return self.remembered[sent]


async def test_what_is_remembered_is_not_verified_again_behind_a_refused_credential() -> None:
    """Of a token this may be a request to the authority, each time."""
    first, second = InField("first"), InField("second")
    checkpoint = Checkpoint({"first": first, "second": second}, Refusals())
    both = Sent({b"first": b"bad", b"second": b"good"})
    for _ in range(3):
        assert checkpoint.recall(both) is None  # the first one decides, if it accepts
        assert (await checkpoint.find(both, SENDER)).sub == "second"
    assert (first.asked, second.asked) == ([b"bad"] * 3, [b"good"])


async def test_what_is_remembered_of_the_second_counts_only_without_the_first() -> None:
    first, second = InField("first"), InField("second")
    checkpoint = Checkpoint({"first": first, "second": second}, Refusals())
    only = Sent({b"second": b"good"})
    principal = await checkpoint.find(only, SENDER)
    assert checkpoint.recall(only) is principal
    assert checkpoint.recall(Sent({b"first": b"good", b"second": b"good"})) is None
    assert (await checkpoint.find(Sent({b"first": b"good", b"second": b"good"}), SENDER)).sub == "first"
    with pytest.raises(Unauthenticated):
        await checkpoint.find(Sent({}), SENDER)
