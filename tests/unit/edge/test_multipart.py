import asyncio
import sys
from io import BytesIO
from itertools import pairwise
from threading import Event
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch.core.upload import Upload
from anabranch.edge.multipart import MOST_PARTS, MultipartReader, boundary_of
from anabranch.edge.spool import SPOOL_ABOVE_BYTES, Spool
from anabranch.errors import BodyTooLarge, InvalidBody
from tests.support.eventually import eventually

# Contents that look like boundaries, and line ends wherever a parser may look for them.
CONTENT = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b"--", b"\r\n--", b"\r\n------", b"----b", b"x", b"\0\xff", b"-"]), max_size=12
).map(b"".join)
NAMES = st.sampled_from(["a", "b", "ä b", "c[0]"])
PARTS = st.lists(st.tuples(NAMES, st.none() | st.sampled_from(["f", "ü.png", "a;b.txt"]), CONTENT), max_size=6)


def body_of(parts: list[tuple[str, str | None, bytes]], boundary: bytes = b"B-o-u-n-d-a-r-y") -> bytes:
    lines = []
    for name, filename, content in parts:
        file = "" if filename is None else f'; filename="{filename}"\r\nContent-Type: image/png'
        lines.append(b"--%b\r\n" % boundary + f'Content-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content + b"\r\n")
    return b"".join(lines) + b"--%b--\r\n" % boundary


def read(pieces: list[bytes], boundary: bytes = b"B-o-u-n-d-a-r-y") -> tuple[MultipartReader, Spool]:
    spool = Spool()
    reader = MultipartReader(boundary, spool)
    for piece in pieces:
        reader.feed(piece)
    reader.finish()
    return reader, spool


@given(PARTS, st.lists(st.integers(0, 600), max_size=8))
@settings(max_examples=40, deadline=None)
def test_the_same_parts_come_out_however_the_body_is_cut(parts: list[tuple[str, str | None, bytes]], cuts: list[int]) -> None:
    texts = [(name, filename, content if filename is not None else content.replace(b"\xff", b"")) for name, filename, content in parts]
    body = body_of(texts)
    at = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    reader, spool = read([body[start:end] for start, end in pairwise(at)])
    expected: dict[str, list[object]] = {}
    for name, filename, content in texts:
        expected.setdefault(name, []).append(content.decode() if filename is None else (filename, "image/png", content))
    actual = {
        name: [
            (value.filename, value.content_type, spool.read(value.start, value.size_bytes)) if isinstance(value, Upload) else value
            for value in values
        ]
        for name, values in reader.values.items()
    }
    assert actual == expected


@given(st.binary(max_size=300))
@settings(max_examples=40, deadline=None)
def test_any_bytes_are_a_body_or_a_fault_of_the_client(data: bytes) -> None:
    for body in (data, b"--B\r\n" + data, b'--B\r\nContent-Disposition: form-data; name="a"\r\n' + data):
        try:
            read([body], b"B")
        except (InvalidBody, BodyTooLarge) as fault:
            # Long enough not to be a word of the sentence itself.
            assert len(data) < 16 or data.decode("latin-1") not in str(fault)  # noqa: PT017 - any of the two


def test_a_body_byte_by_byte() -> None:
    body = body_of([("a", "f", b"\r\n--B\r\n--B-o-u-n-d-a-r-Y\r"), ("t", None, b"x")])
    reader, spool = read([bytes([byte]) for byte in body])
    (file,) = reader.values["a"]
    assert isinstance(file, Upload)
    assert spool.read(file.start, file.size_bytes) == b"\r\n--B\r\n--B-o-u-n-d-a-r-Y\r"
    assert reader.values["t"] == ["x"]


def test_no_part_holds_a_descriptor_of_its_own() -> None:
    reader, spool = read([body_of([("f", "f", b"x")] * MOST_PARTS)])
    assert len(reader.values["f"]) == MOST_PARTS
    assert not spool.is_spooled


def test_a_text_without_end_is_refused_before_it_is_held() -> None:
    reader = MultipartReader(b"B", Spool())
    reader.feed(b'--B\r\nContent-Disposition: form-data; name="a"\r\n\r\n')
    with pytest.raises(BodyTooLarge, match="texts"):
        for _ in range(sys.maxsize):
            reader.feed(b"x" * 65536)


def test_headers_without_end_are_refused() -> None:
    reader = MultipartReader(b"B", Spool())
    with pytest.raises(InvalidBody):
        for piece in (b"--B\r\n", b"x: ", *[b"y" * 1000] * 10):
            reader.feed(piece)


@pytest.mark.parametrize("content_type", [b"multipart/form-data", b"multipart/form-data; boundary=", b'multipart/form-data; boundary=""'])
def test_a_content_type_without_boundary(content_type: bytes) -> None:
    with pytest.raises(InvalidBody, match="no boundary"):
        boundary_of(content_type)


def test_a_quoted_boundary() -> None:
    assert boundary_of(b'Multipart/Form-Data; charset=utf-8; Boundary="a b:c"') == b"a b:c"


def test_a_boundary_that_is_too_long() -> None:
    with pytest.raises(InvalidBody, match="too long"):
        MultipartReader(b"b" * 300, Spool())


async def test_the_spool_goes_to_disk_above_a_mebibyte_and_reads_back_the_same() -> None:
    spool = Spool()
    spool.append(b"a" * SPOOL_ABOVE_BYTES)
    await spool.settle(is_last=True)
    assert (spool.is_spooled, spool.size_bytes) == (False, SPOOL_ABOVE_BYTES)
    spool.append(b"b")
    await spool.settle()
    assert (spool.is_spooled, spool.size_bytes) == (True, SPOOL_ABOVE_BYTES + 1)
    spool.append(b"c" * 10)
    await spool.settle()
    await spool.settle(is_last=True)
    assert spool.size_bytes == SPOOL_ABOVE_BYTES + 11
    assert spool.read(SPOOL_ABOVE_BYTES - 1, 100) == b"ab" + b"c" * 10
    spool.close()
    spool.close()


async def test_nothing_can_be_read_after_the_request() -> None:
    spool = Spool()
    spool.append(b"x")
    spool.close()
    with pytest.raises(OSError, match="has ended"):
        spool.read(0, 1)
    spool.append(b"x" * (SPOOL_ABOVE_BYTES + 1))
    await spool.settle()
    assert not spool.is_spooled


async def test_a_request_that_ends_during_a_write_does_not_wait_for_the_disk_and_leaves_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    writes, goes_on = Event(), Event()
    files: list[BytesIO] = []

    class SlowFile(BytesIO):
        def write(self, data: Any) -> int:
            writes.set()
            goes_on.wait(20)
            return super().write(data)

    def slow(**_: object) -> BytesIO:
        files.append(SlowFile())
        return files[0]

    monkeypatch.setattr("anabranch.edge.spool.tempfile.TemporaryFile", slow)
    spool = Spool()
    spool.append(b"x" * (SPOOL_ABOVE_BYTES + 1))
    settling = asyncio.create_task(spool.settle())
    await eventually(writes.is_set)
    spool.close()
    assert not files[0].closed
    goes_on.set()
    await settling
    assert files[0].closed
