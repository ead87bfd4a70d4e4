"""What becomes of a response that is compressed. Negotiation on sockets is in tests/specs/compression.yaml."""

import threading

import pytest

from anabranch.edge import compress
from anabranch.edge.compress import CODINGS, Coding, Compressor
from anabranch.edge.respond import Response, framed
from anabranch.plan.model import CompressionPlan
from anabranch.upstream.encoding import decode
from tests.support.edge_plans import endpoint
from tests.support.requests import Lines, request_of

PLAN = CompressionPlan(codings=("zstd", "br", "gzip"), min_size_bytes=1024)
BODY = b'{"it":"' + b"x" * 2000 + b'"}'
GZIP: Lines = [(b"accept-encoding", b"gzip")]


async def compressed(
    headers: Lines | None = None, *, asked: Lines = GZIP, status: int = 200, body: bytes = BODY, is_head: bool = False
) -> Response:
    response = framed(status, list(headers or []), body, is_head=is_head)
    return await Compressor(PLAN).compress(response, request_of(endpoint(), lines=asked))


@pytest.mark.parametrize("coding", list(CODINGS))
async def test_every_coding_gives_the_body_back(coding: str) -> None:
    response = await compressed([(b"x", b"1")], asked=[(b"accept-encoding", coding.encode())])
    assert decode(response.body, coding.encode(), 1 << 20) == BODY
    assert response.headers == [
        (b"x", b"1"), (b"vary", b"Accept-Encoding"), (b"content-encoding", coding.encode()), (b"content-length", b"%d" % len(response.body)),
    ]  # fmt: skip


async def test_equal_bodies_give_equal_bytes() -> None:
    assert (await compressed()).body == (await compressed()).body


async def test_the_given_response_is_not_changed() -> None:
    """The journal may still have to write it."""
    response = framed(200, [(b"etag", b'"1"')], BODY, is_head=False)
    before = Response(response.status, list(response.headers), response.body)
    await Compressor(PLAN).compress(response, request_of(endpoint(), lines=GZIP))
    assert response == before


@pytest.mark.parametrize("value", [b"no-transform", b"private,NO-TRANSFORM", b"max-age=1 , no-transform ,x"])
async def test_no_transform_keeps_a_response_as_it_is(value: bytes) -> None:
    """RFC 9111 section 5.2.2.6; in any of several fields."""
    response = await compressed([(b"cache-control", b"private"), (b"cache-control", value)])
    assert (response.body, response.headers[2:]) == (BODY, [(b"content-length", b"2009")])


@pytest.mark.parametrize("value", [b"no-transformation", b"private, x-no-transform", b'ext="no-transform"'])
async def test_other_directives_do_not(value: bytes) -> None:
    assert (await compressed([(b"cache-control", value)])).body != BODY


@pytest.mark.parametrize("status", [204, 205])
async def test_a_response_that_has_no_body_is_left_alone(status: int) -> None:
    response = await compressed(status=status, asked=[(b"accept-encoding", b"gzip, identity;q=0")])
    assert response.body == b""
    assert not {name for name, _ in response.headers} & {b"content-encoding", b"vary"}


async def test_head_has_no_length_because_it_is_unknown() -> None:
    response = await compressed([(b"etag", b'"1"')], is_head=True)
    assert response.body == b""
    assert response.headers == [(b"etag", b'W/"1"'), (b"vary", b"Accept-Encoding"), (b"content-encoding", b"gzip")]


@pytest.mark.parametrize(("size", "is_on_loop"), [(2000, True), (8000, False)])
async def test_a_large_body_is_compressed_in_a_thread(size: int, is_on_loop: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def noting(body: bytes) -> bytes:
        threads.append(threading.get_ident())
        return body

    monkeypatch.setitem(compress.CODINGS, "gzip", Coding(noting, 4000))
    await compressed(body=b"1" * size)
    assert (threads == [threading.get_ident()]) is is_on_loop
