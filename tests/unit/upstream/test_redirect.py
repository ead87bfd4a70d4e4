"""Redirects: same origin, safe methods, bounded."""

import pytest

from anabranch.core.exchange import Address, Answer, Request, StreamRule
from anabranch.upstream.redirect import Redirecting
from anabranch.upstream.stream import AnswerStream

ADDRESS = Address.parse("http://service.example/base")


class Body:
    """An empty body of a stream."""

    is_closed = False

    async def read(self) -> bytes:
        return b""

    async def aclose(self) -> None:
        self.is_closed = True


class Inner:
    """Answers from a map of complete targets (base path included) to Location values; anything else is 200."""

    def __init__(self, locations: dict[str, bytes | None], status: int = 302) -> None:
        self.locations = locations
        self.status = status
        self.asked: list[str] = []
        self.is_closed = False
        self.bodies: list[Body] = []

    async def exchange(self, request: Request, address: Address, deadline: float) -> Answer:
        target = address.base_path + request.target
        self.asked.append(target)
        if target not in self.locations:
            return Answer(200, [], b"here")
        location = self.locations[target]
        return Answer(self.status, [] if location is None else [(b"location", location)], b"moved")

    async def stream(self, request: Request, address: Address, deadline: float, rule: StreamRule) -> AnswerStream:
        answer = await self.exchange(request, address, deadline)
        self.bodies.append(body := Body())
        return AnswerStream(answer.status, answer.headers, body, rule)

    async def aclose(self) -> None:
        self.is_closed = True


async def ask(inner: Inner, *, method: str = "GET", limit: int = 5, target: str = "/a") -> Answer:
    return await Redirecting(inner, limit=limit).exchange(Request(method=method, target=target), ADDRESS, 1.0)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_redirect_on_the_same_origin_is_followed(status: int, method: str) -> None:
    inner = Inner({"/base/a": b"/other?x=1"}, status)
    assert (await ask(inner, method=method)).status == 200
    assert inner.asked == ["/base/a", "/other?x=1"]


@pytest.mark.parametrize(
    ("location", "target"),
    [
        (b"b", "/base/b"),
        (b"../c?d=%20#fragment", "/c?d=%20"),
        (b"?only=query", "/base/a?only=query"),
        (b"http://service.example", "/"),
        (b"http://SERVICE.example:80/x", "/x"),
        (b"//service.example/y", "/y"),
        (b" /x ", "/x"),
        (b"/sp ace?q=a b", "/sp%20ace?q=a%20b"),
        (b"/caf\xc3\xa9", "/caf%C3%A9"),
        (b"/caf%C3%A9", "/caf%C3%A9"),
        (b"/\\other.example", "/\\other.example"),
    ],
)
async def test_location_is_resolved_against_the_request(location: bytes, target: str) -> None:
    inner = Inner({"/base/a": location})
    await ask(inner)
    assert inner.asked[1:] == [target]


@pytest.mark.parametrize(
    "location",
    [
        None, b"", b"http://other.example/", b"https://service.example/", b"http://service.example:81/", b"//other.example/",
        b"http://user@service.example/", b"http://user:pass@service.example/", b"ftp://service.example/", b"http://[bad/",
        b"http://service.example\\@other.example/", b"/x\ty", b"/x\x00", b" ", b"/x\r\ninjected: 1", b"http://service.example:port/", b"javascript:alert(1)",
    ],
)  # fmt: skip
async def test_any_other_answer_is_returned_unchanged(location: bytes | None) -> None:
    inner = Inner({"/base/a": location})
    assert (await ask(inner)).status == 302
    assert inner.asked == ["/base/a"]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_other_methods_are_not_followed(method: str) -> None:
    assert (await ask(Inner({"/base/a": b"/b"}), method=method)).status == 302


@pytest.mark.parametrize("status", [300, 304, 305, 306])
async def test_other_statuses_are_not_followed(status: int) -> None:
    assert (await ask(Inner({"/base/a": b"/b"}, status))).status == status


async def test_loop_ends_at_the_limit() -> None:
    inner = Inner({"/base/a": b"/base/a"})
    assert (await ask(inner, limit=3)).status == 302
    assert len(inner.asked) == 4


async def test_close_closes_the_inner_transport() -> None:
    inner = Inner({})
    await Redirecting(inner, limit=1).aclose()
    assert inner.is_closed


async def test_stream_is_redirected_too_and_the_body_of_the_redirect_is_closed() -> None:
    inner = Inner({"/base/a": b"/b", "/b": b"/c"})
    answer = await Redirecting(inner, limit=5).stream(Request("GET", "/a"), ADDRESS, 1.0, StreamRule(1.0))
    assert answer.status == 200
    assert inner.asked == ["/base/a", "/b", "/c"]
    assert [body.is_closed for body in inner.bodies] == [True, True, False]
