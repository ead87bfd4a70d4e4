"""Content codings: decoding is bounded and strict."""

import asyncio
import gzip
import random
import zlib
from contextlib import suppress
from typing import Any

import brotli
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from anabranch.errors import ProtocolError, ResponseTooLarge
from anabranch.upstream.encoding import MAX_CODINGS, decode, decode_soon

TEXT = b'{"text": "' + b"abc" * 1000 + b'"}'
RAW_DEFLATE = zlib.compress(TEXT, wbits=-15)
CODED = {
    b"gzip": gzip.compress(TEXT),
    b"x-gzip": gzip.compress(TEXT),
    b"deflate": zlib.compress(TEXT),
    b"br": brotli.compress(TEXT),
    b"zstd": zstd.compress(TEXT),
}


@pytest.mark.parametrize("coding", CODED)
def test_each_coding_is_decoded(coding: bytes) -> None:
    assert decode(CODED[coding], coding, len(TEXT)) == TEXT
    assert decode(CODED[coding], b" %b " % coding.upper(), len(TEXT)) == TEXT


def test_deflate_without_its_zlib_wrapper_is_decoded() -> None:
    assert decode(RAW_DEFLATE, b"deflate", 10_000) == TEXT


def test_consecutive_members_and_frames_are_one_body() -> None:
    assert decode(gzip.compress(b"one") + gzip.compress(b"two"), b"gzip", 6) == b"onetwo"
    assert decode(zstd.compress(b"one") + zstd.compress(b"two"), b"zstd", 6) == b"onetwo"


def test_list_is_decoded_last_first_and_identity_is_ignored() -> None:
    assert decode(brotli.compress(gzip.compress(TEXT)), b"gzip, identity, br", len(TEXT)) == TEXT
    assert decode(TEXT, b"identity", len(TEXT)) == TEXT
    assert decode(TEXT, b" , ", len(TEXT)) == TEXT


@pytest.mark.parametrize("coding", CODED)
def test_one_byte_over_the_limit_is_too_large(coding: bytes) -> None:
    with pytest.raises(ResponseTooLarge) as caught:
        decode(CODED[coding], coding, len(TEXT) - 1)
    assert caught.value.may_be_processed


def test_limit_holds_across_members_and_between_codings() -> None:
    with pytest.raises(ResponseTooLarge):
        decode(gzip.compress(b"12345") * 3, b"gzip", 14)
    with pytest.raises(ResponseTooLarge):
        decode(gzip.compress(gzip.compress(b"", mtime=0) + b"x" * 5000), b"gzip, gzip", 1000)


def test_bomb_is_stopped_at_the_limit() -> None:
    for coding, bomb in {b"gzip": gzip.compress(bytes(50_000_000)), b"br": brotli.compress(bytes(50_000_000))}.items():
        with pytest.raises(ResponseTooLarge):
            decode(bomb, coding, 1000)


@pytest.mark.parametrize("coding", CODED)
def test_truncated_or_damaged_body_is_an_error(coding: bytes) -> None:
    for body in (CODED[coding][:-1], CODED[coding][:5], b"not coded at all"):
        with pytest.raises(ProtocolError, match="broken"):
            decode(body, coding, 100_000)


@pytest.mark.parametrize("coding", CODED)
def test_trailing_bytes_are_an_error(coding: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(CODED[coding] + b"behind", coding, 100_000)


@pytest.mark.parametrize("coding", CODED)
def test_empty_body_stays_empty(coding: bytes) -> None:
    assert decode(b"", coding, 10) == b""
    assert decode(b"", b"unknown", 10) == b""


def test_unknown_coding_and_too_many_are_protocol_errors() -> None:
    with pytest.raises(ProtocolError, match="not gzip, deflate, br or zstd"):
        decode(b"x", b"compress", 10)
    with pytest.raises(ProtocolError, match="more than"):
        decode(b"x", b",".join([b"gzip"] * (MAX_CODINGS + 1)), 10)


def test_zstd_window_beyond_the_rfc_limit_is_rejected() -> None:
    """RFC 9659 section 3."""
    options: dict[int, int] = {zstd.CompressionParameter.window_log: 27}
    compressor = zstd.ZstdCompressor(options=options)
    body = compressor.compress(bytes(range(256)) * 1000) + compressor.flush()
    with pytest.raises(ProtocolError):
        decode(body, b"zstd", 10_000_000)


@given(body=st.binary(max_size=300), coding=st.sampled_from(sorted(CODED)))
def test_any_bytes_decode_or_raise_an_upstream_error(body: bytes, coding: bytes) -> None:
    with suppress(ProtocolError, ResponseTooLarge):
        assert len(decode(body, coding, 1000)) <= 1000


async def test_small_body_is_decoded_at_once_and_a_large_one_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    hops = 0
    to_thread = asyncio.to_thread

    async def counted(*given: Any) -> Any:
        nonlocal hops
        hops += 1
        return await to_thread(*given)

    monkeypatch.setattr(asyncio, "to_thread", counted)
    small, swelling = b"x" * 1000, b"x" * 3_000_000
    noise = random.Random(1).randbytes(200_000)
    assert await decode_soon(gzip.compress(small), b"gzip", 1 << 23) == small
    assert hops == 0
    assert await decode_soon(gzip.compress(swelling), b"gzip", 1 << 23) == swelling
    assert await decode_soon(gzip.compress(noise), b"gzip", 1 << 23) == noise
    assert hops == 2
    with pytest.raises(ResponseTooLarge):
        await decode_soon(gzip.compress(swelling), b"gzip", 1 << 20)
    with pytest.raises(ResponseTooLarge):
        await decode_soon(gzip.compress(small), b"gzip", 100)
    with pytest.raises(ProtocolError):
        await decode_soon(b"no gzip", b"gzip", 1 << 23)
