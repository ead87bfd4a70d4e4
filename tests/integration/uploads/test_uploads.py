"""Uploads through a gateway in its own process and in this one: its memory, its temporary files, and its event loop."""

import asyncio
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import httpx
import pytest
from blockbuster import blockbuster_ctx
from starlette.types import Receive, Scope, Send

from anabranch.testing.scripted.upstream import ScriptedUpstream
from anabranch.testing.serving import serve
from tests.support.command import Command, running_command
from tests.support.eventually import eventually
from tests.support.footprint import MIB
from tests.support.gateway import running_gateway

DOCUMENT = """
version: 1
defaults: {{timeout: 60s, max_body: 80MiB}}
upstreams:
  wire: {{url: "{url}"}}
  stock: {{url: "{url}", transport: httpx}}
endpoints:
  - path: /wire
    method: POST
    body: {{type: multipart, max_size: 80MiB}}
    steps: {{sent: {{upstream: wire, path: /, encode: multipart, body: {{file: "{{body.file}}"}}, required: true}}}}
  - path: /stock
    method: POST
    body: {{type: multipart, max_size: 80MiB}}
    steps: {{sent: {{upstream: stock, path: /, encode: multipart, body: {{file: "{{body.file}}"}}, required: true}}}}
  - path: /bounded
    method: POST
    body: {{type: multipart, max_size: 2MiB}}
    steps: {{sent: {{upstream: wire, path: /, encode: multipart, body: "{{body}}", required: true}}}}
"""
PART = bytes(range(256)) * 256
HEAD = b'--B\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
TAIL = b"\r\n--B--\r\n"
TYPE = {"content-type": "multipart/form-data; boundary=B"}


async def service(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the size and the digest of the content that it gets, without holding it."""
    digest, size, held = sha256(), 0, b""
    head = True
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return
        data = held + message.get("body", b"")
        if head and b"\r\n\r\n" in data:
            data, head = data.partition(b"\r\n\r\n")[2], False
        held = data[-100:]
        digest.update(data[:-100])
        size += len(data[:-100])
        if not message.get("more_body", False):
            break
    last = held.rpartition(b"\r\n--")[0]
    digest.update(last)
    body = b'{"size":%d,"sha256":"%b"}' % (size + len(last), digest.hexdigest().encode())
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


async def upload(parts: int) -> AsyncIterator[bytes]:
    yield HEAD
    for _ in range(parts):
        yield PART
    yield TAIL


def peak_bytes(command: Command) -> int:
    """The most resident memory that the process has ever had."""
    status = Path(f"/proc/{command.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def spools(command: Command) -> list[str]:
    """The temporary files that the process has open."""
    found = []
    for link in Path(f"/proc/{command.pid}/fd").iterdir():
        try:
            target = str(link.readlink())
        except OSError:
            continue
        if "(deleted)" in target or "/#" in target:
            found.append(target)
    return found


async def test_a_large_upload_is_never_held_in_memory_and_leaves_nothing_behind(tmp_path: Path) -> None:
    spooled = tmp_path / "spooled"
    spooled.mkdir()
    async with serve(service) as port:
        document = tmp_path / "gateway.yaml"
        document.write_text(DOCUMENT.format(url=f"http://127.0.0.1:{port}"), "utf-8")
        async with running_command(document, TMPDIR=str(spooled)) as command, httpx.AsyncClient(base_url=command.url, timeout=60) as client:
            for path in ("/wire", "/stock"):  # everything is imported, and buffers have their size
                assert (await client.post(path, content=upload(32), headers=TYPE)).status_code == 200
            before = peak_bytes(command)
            for path, size in (("/wire", 64 * MIB), ("/stock", 24 * MIB)):
                parts = size // len(PART)
                answer = await client.post(path, content=upload(parts), headers=TYPE)
                assert answer.json() == {"sent": {"size": size, "sha256": sha256(PART * parts).hexdigest()}}
            assert peak_bytes(command) - before < 10 * MIB
            # Neither a request that is refused nor a client that leaves keeps a file.
            refused = await client.post("/bounded", content=upload(64), headers=TYPE)
            assert refused.status_code == 413
            _, writer = await asyncio.open_connection("127.0.0.1", command.port)
            writer.write(
                b"POST /wire HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=B\r\ncontent-length: 9000000\r\n\r\n"
            )
            writer.write(HEAD + PART * 64)
            await writer.drain()
            await eventually(lambda: bool(spools(command)))
            writer.transport.abort()
            await eventually(lambda: not spools(command))
    assert list(spooled.iterdir()) == []


async def test_an_upload_that_cannot_be_stored_is_a_503_that_names_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("anabranch.edge.spool.tempfile.TemporaryFile", full)
    async with (
        ScriptedUpstream({"/": {"json": 1}}) as upstream,
        running_gateway(DOCUMENT.format(url=upstream.url), tmp_path) as gateway,
        gateway.client() as client,
    ):
        answer = await client.post("/wire", content=upload(64), headers=TYPE)
        small = await client.post("/wire", content=upload(1), headers=TYPE)
    assert (answer.status_code, small.status_code) == (503, 200)
    assert answer.json()["type"].endswith("upload_not_stored")
    assert "No space" not in answer.text
    assert any("No space left on device" in line for line in caplog.messages)


async def test_uploads_never_block_the_event_loop(tmp_path: Path) -> None:
    async with (
        serve(service) as port,
        running_gateway(DOCUMENT.format(url=f"http://127.0.0.1:{port}"), tmp_path) as gateway,
        gateway.client() as client,
    ):
        for path in ("/wire", "/stock"):
            assert (await client.post(path, content=upload(1), headers=TYPE)).status_code == 200
        with blockbuster_ctx() as found:
            # A single write of a log line: see app/anabranch/observe/sink.py.
            found.functions["os.write"].can_block_in("app/anabranch/observe/sink.py", "write")
            for path in ("/wire", "/stock"):
                assert (await client.post(path, content=upload(64), headers=TYPE)).status_code == 200
                assert (await client.post(path, content=upload(1), headers=TYPE)).status_code == 200
