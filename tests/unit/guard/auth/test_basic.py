"""Name and password: what is hashed, how often, and what is remembered."""

import asyncio
import threading
from base64 import b64encode
from dataclasses import dataclass, field

import pytest

from anabranch.config.auth.basic import Basic
from anabranch.guard.auth import basic
from anabranch.guard.auth.basic import BasicAuthenticator
from anabranch.guard.auth.seam import CannotAuthenticate, InvalidCredential
from anabranch.guard.tools import Tools

ANNA = "anna:$2b$04$wkDpCkFdVyZjFfe2B0fcK.CGQZdo4iIOQiZfj/5EKkdmCLt2qB8ki"  # geheim


@dataclass
class Sent:
    """A request with name and password."""

    pair: str
    query: bytes = b""
    certificate: None = None
    headers: dict[bytes, bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.headers = {b"authorization": b"Basic " + b64encode(self.pair.encode())}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def made(clock: Clock) -> BasicAuthenticator:
    return basic.build("staff", Basic(users=ANNA), Tools(clock=clock))


async def test_a_verified_pair_is_not_hashed_again_for_five_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, hashed = Clock(), []
    async with made(clock) as staff:
        verify = staff._verifiers[b"anna"]
        staff._verifiers[b"anna"] = lambda password: hashed.append(password) or verify(password)  # type: ignore[func-returns-value]
        request = Sent("anna:geheim")
        assert staff.recall(request) is None
        principal = await staff.authenticate(request)
        assert principal is not None
        assert principal.sub == "anna"
        clock.now += 299
        assert staff.recall(request) is principal
        assert await staff.authenticate(request) is principal
        assert staff.recall(Sent("anna:geheim2")) is None
        clock.now += 2
        assert staff.recall(request) is None
        assert await staff.authenticate(request) is not None
    assert hashed == [b"geheim"] * 2


async def test_requests_at_once_share_one_hash_and_unknown_users_cost_one_too() -> None:
    hashed: list[bytes] = []
    async with made(Clock()) as staff:

        def verify(password: bytes) -> bool:
            hashed.append(password)
            return True  # whatever the hash says, an unknown name is nobody's

        staff._known = (verify,)
        results = await asyncio.gather(*(staff.authenticate(Sent("nobody:x")) for _ in range(10)), return_exceptions=True)
    assert hashed == [b"x"]
    assert [str(result) for result in results] == ["wrong"] * 10


async def test_guesses_do_not_queue_without_end() -> None:
    async with made(Clock()) as staff:
        staff._known = (lambda _: False,)
        results = await asyncio.gather(*(staff.authenticate(Sent(f"nobody:{number}")) for number in range(200)), return_exceptions=True)
        kinds = {type(result) for result in results}
        assert kinds == {InvalidCredential, CannotAuthenticate}
        assert sum(isinstance(result, CannotAuthenticate) for result in results) == 200 - 64
        assert await staff.authenticate(Sent("anna:geheim")) is not None


async def test_a_caller_that_leaves_does_not_end_the_check_of_others() -> None:
    async with made(Clock()) as staff:
        first = asyncio.ensure_future(staff.authenticate(Sent("anna:geheim")))
        second = asyncio.ensure_future(staff.authenticate(Sent("anna:geheim")))
        await asyncio.sleep(0)
        first.cancel()
        principal = await second
        assert principal is not None
        assert principal.sub == "anna"


async def test_a_request_that_waits_when_the_document_is_closed_is_told_so() -> None:
    """Its own task is not cancelled: nobody has cancelled the request."""
    is_over = threading.Event()
    try:
        async with made(Clock()) as staff:
            staff._known = (lambda _: is_over.wait(10),)
            waiting = [asyncio.ensure_future(staff.authenticate(Sent(f"nobody:{number}"))) for number in range(5)]
            await asyncio.sleep(0)
        await asyncio.wait(waiting[2:], timeout=5)
        results = [request.exception() for request in waiting[2:]]
        assert [(type(result), str(result)) for result in results] == [(CannotAuthenticate, "closed")] * 3
    finally:
        is_over.set()
        await asyncio.gather(*waiting[:2], return_exceptions=True)


@pytest.mark.parametrize("password", ["geheim\0", "x" * 100, "", "geheim" + "x" * 2000])
async def test_odd_passwords_are_wrong_and_nothing_else(password: str) -> None:
    async with made(Clock()) as staff:
        with pytest.raises(InvalidCredential):
            await staff.authenticate(Sent(f"anna:{password}"))


async def test_unknown_names_cost_what_known_ones_do_and_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where hashes differ in cost, a single stand-in would show by its time which names are unknown."""
    hashed: list[str] = []

    def verifier(digest: str) -> basic.Verify:
        return lambda _: hashed.append(digest[:7]) or False  # type: ignore[func-returns-value]

    monkeypatch.setattr(basic, "_verifier", verifier)
    dear = ANNA.replace("anna", "dora").replace("$04$", "$12$")
    async with basic.build("staff", Basic(users=f"{ANNA}\n{dear}"), Tools(clock=Clock())) as staff:
        for name in ("x", "y"):
            for password in range(3):
                with pytest.raises(InvalidCredential):
                    await staff.authenticate(Sent(f"{name}:{password}"))
        assert len(set(hashed[:3])) == len(set(hashed[3:])) == 1
        assert {staff._of_nobody(b"%d" % number) for number in range(100)} == set(staff._known)
