"""A record is one line with a checksum, and bodies round-trip unchanged."""

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch.journal.record import (
    VERSION,
    Content,
    Record,
    RecordedRequest,
    RecordError,
    check,
    decode,
    digested,
    encode,
    kept,
    read_head,
)
from tests.support.recorded import answered, recorded

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def line_of(body: bytes = b'{"a":1}') -> bytes:
    return encode(recorded("/x", body, [answered("one", "up", "/one", body)]))


def test_a_line_is_json_that_ends_with_its_checksum() -> None:
    line = line_of()
    assert line.endswith(b'"}\n')
    assert line.count(b"\n") == 1
    document = json.loads(line)
    assert document["v"] == VERSION
    assert list(document)[-1] == "crc"
    assert len(document["crc"]) == 8


@given(body=st.binary(max_size=200), name=st.text(max_size=20), elapsed=st.floats(0, 1e9), status=st.integers(100, 599))
def test_any_record_round_trips(body: bytes, name: str, elapsed: float, status: int) -> None:
    record = Record(
        v=VERSION,
        id="i",
        time=datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
        endpoint=name,
        plan="p",
        status=status,
        complete=True,
        elapsed_ms=elapsed,
        request=RecordedRequest(id="r", method="GET", path=f"/{name}", query=name, headers={name: name}, body=kept(body)),
        body=kept(body),
    )
    line = encode(record)
    assert line.count(b"\n") == 1
    found = decode(line[:-1])
    assert (found.id, found.time, found.endpoint, found.status, found.elapsed_ms) == ("i", record.time, name, status, elapsed)
    assert found.request.headers == {name: name}
    assert found.body is not None
    if found.body.json is msgspec.UNSET:
        assert found.body.to_bytes() == body
    else:
        assert found.body.to_bytes().strip() == body.strip().replace(b"\n", b" ").replace(b"\r", b" ")


@given(value=JSON, indent=st.sampled_from([None, 1]))
def test_json_bodies_keep_their_spelling_in_the_line(value: Any, indent: int | None) -> None:
    body = json.dumps(value, indent=indent).encode()
    content = kept(body)
    assert isinstance(content.json, msgspec.Raw)
    assert json.loads(content.to_bytes()) == json.loads(body)
    assert len(content.to_bytes()) == len(body)


@pytest.mark.parametrize("body", [b"1.0", b"1e2", b"123456789012345678901234567890", b'{"a":1.10}'])
def test_numbers_keep_their_spelling(body: bytes) -> None:
    found = decode(line_of(body)[:-1])
    assert found.body is not None
    assert found.body.to_bytes() == body


@pytest.mark.parametrize("body", [b"<html>", b"", b"\xef\xbb\xbf{}", b'{"a":"\xff"}', b"{", b"[" * 950 + b"]" * 950, b"\n"])
def test_a_body_that_is_not_json_round_trips_byte_for_byte(body: bytes) -> None:
    content = kept(body, is_json=True) if body[:1] == b"\xef" else kept(body)
    assert isinstance(content.base64, str)
    assert content.to_bytes() == body


def test_a_body_with_the_deepest_allowed_nesting_stays_readable() -> None:
    for depth in range(100, 960, 40):
        body = b'{"a":[' * (depth // 2) + b"]}" * (depth // 2)
        found = decode(line_of(body)[:-1])
        assert found.body is not None
        assert found.body.to_bytes() == body


def test_a_body_that_is_not_kept_is_recorded_as_a_digest() -> None:
    content = digested(b"abc")
    assert content == Content(sha256="ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", size=3)
    assert not content.is_kept
    with pytest.raises(LookupError):
        content.to_bytes()


def test_a_line_truncated_anywhere_is_detected() -> None:
    line = line_of()[:-1]
    check(line)
    for end in range(len(line)):
        with pytest.raises(RecordError):
            check(line[:end])


@settings(max_examples=300)
@given(data=st.data())
def test_any_changed_byte_is_detected(data: st.DataObject) -> None:
    line = bytearray(line_of()[:-1])
    at = data.draw(st.integers(0, len(line) - 1))
    line[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(RecordError):
        decode(bytes(line))


@given(st.binary(max_size=100))
def test_any_bytes_decode_to_a_record_or_raise_an_error(line: bytes) -> None:
    with pytest.raises(RecordError):
        check(line)


def test_a_later_format_version_is_rejected_by_name() -> None:
    record = recorded("/x", b"1", [])
    later = encode(msgspec.structs.replace(record, v=VERSION + 1))[:-1]
    with pytest.raises(RecordError, match=f"format {VERSION + 1}"):
        decode(later)
    with pytest.raises(RecordError, match=f"format {VERSION + 1}"):
        read_head(later)


def test_members_added_by_a_later_minor_version_are_ignored() -> None:
    from zlib import crc32

    content = encode(recorded("/x", b"1", []))[:-19] + b',"new":{"a":[1]}'
    line = content + b',"crc":"%08x"}' % crc32(content)
    assert decode(line).endpoint == "x"
