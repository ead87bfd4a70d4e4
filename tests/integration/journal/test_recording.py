"""A complete gateway with a journal: responses are recorded, before or after they are sent, redacted, and whatever the disk does."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from anabranch.journal import reader
from anabranch.journal.record import Record
from anabranch.journal.segment import listed
from anabranch.journal.verify import verify
from anabranch.main import assemble
from anabranch.settings import Settings
from anabranch.testing.scripted.upstream import ScriptedUpstream
from anabranch.testing.serving import LOOPBACK, serve
from tests.support.gateway import admin_port_of, running_gateway

DOCUMENT = """
version: 1
upstreams:
  up: {url: "URL"}
endpoints:
  - path: /off
    steps: {one: {upstream: up, path: /one}}
  - path: /relaxed
    parameters: {n: {in: query, schema: {type: integer}}, token: {in: query, schema: {type: integer}}}
    steps: {one: {upstream: up, path: /one}, two: {upstream: up, path: /broken}}
    journal: true
  - path: /required/{id}
    method: POST
    steps:
      one: {upstream: up, path: "/one?api_key=k", method: POST, body: "{body}"}
      two: {upstream: up, path: /html, required: false}
    journal: {durability: required, bodies: steps, headers: [accept-language, authorization]}
  - path: /failing
    steps: {one: {upstream: up, path: /broken, required: true}}
    journal: {durability: required, bodies: none}
  - path: /sampled
    steps: {one: {upstream: up, path: /one}}
    journal: {sample: 0%}
  - path: /refused
    steps: {no: {compute: "tests.support.hooks:refuses", input: {status: 409, detail: taken}, required: true}}
    journal: {durability: required, bodies: steps}
    compression: {min_size: 1}
  - path: /slow
    steps: {one: {upstream: up, path: /slow}}
    journal: true
  - path: /tagged
    steps: {one: {upstream: up, path: /one}}
    journal: {durability: required}
    response: {cache: true}
journal: {flush_interval: 10ms, min_free: 0, redact: {paths: [card.number, "**.password"]}}
"""
ROUTES: dict[str, Any] = {
    "/one": {"json": {"price": 1.5, "card": {"number": 4111}}},
    "/broken": {"status": 500, "json": {"password": "p"}},
    "/html": {"status": 200, "body": "<html>"},
    "/slow": {"delay_s": 30.0, "json": {}},
}


@asynccontextmanager
async def gateway(tmp_path: Path, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with ScriptedUpstream(ROUTES) as upstream:
        document = DOCUMENT.replace("URL", f"http://{LOOPBACK}:{upstream.port}")
        options = {"journal_path": tmp_path / "j", "access_log": "off", **settings}
        async with running_gateway(document, tmp_path, **options) as running, running.client() as client:
            yield client


def records(tmp_path: Path) -> list[Record]:
    folder = tmp_path / "j"
    return list(reader.records(folder)) if folder.exists() else []


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(40):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_relaxed_record_follows_the_response(tmp_path: Path) -> None:
    async with gateway(tmp_path) as client:
        answer = await client.get("/relaxed", params={"n": 1, "token": 7}, headers={"x-request-id": "abc", "accept-language": "de"})
        await until(lambda: records(tmp_path))
    (record,) = records(tmp_path)
    assert (record.endpoint, record.status, record.complete, record.failure) == ("get_relaxed", 200, False, None)
    assert record.body is not None
    assert record.body.to_bytes().replace(b'"***"', b"4111") == answer.content
    assert (record.request.id, record.request.path, record.request.query) == ("abc", "/relaxed", "n=1&token=***")
    assert record.request.headers == {}
    one, two = record.steps
    assert (one.name, one.upstream, one.method, one.target, one.status, one.attempts, one.failure) == (
        "one",
        "up",
        "GET",
        "/one",
        200,
        1,
        None,
    )
    assert (two.status, two.failure) == (500, "upstream_status")
    assert one.body is None
    assert 0 <= one.elapsed_ms <= record.elapsed_ms


async def test_a_required_record_is_on_disk_before_the_response(tmp_path: Path) -> None:
    async with gateway(tmp_path) as client:
        for number in range(5):
            answer = await client.post(
                f"/required/{number}",
                json={"card": {"number": 1}, "n": number},
                headers={"authorization": "Bearer s3cret", "accept-language": "de"},
            )
            assert answer.status_code == 200
            assert len(records(tmp_path)) == number + 1
    record = records(tmp_path)[-1]
    assert record.request.path == "/required/4"
    assert record.request.headers == {"accept-language": "de", "authorization": "***"}
    assert record.request.body is not None
    assert orjson.loads(record.request.body.to_bytes()) == {"card": {"number": "***"}, "n": 4}
    one, two = record.steps
    assert one.target == "/one?api_key=***"
    assert one.sent is not None
    assert b"***" in one.sent.to_bytes()
    assert one.body is not None
    assert orjson.loads(one.body.to_bytes()) == {"price": 1.5, "card": {"number": "***"}}
    assert two.failure == "invalid_json"
    assert two.body is not None
    assert not two.body.is_kept, "what may hold a secret and cannot be read is not kept"


async def test_a_client_that_has_the_response_already_is_recorded_with_the_whole_response(tmp_path: Path) -> None:
    async with gateway(tmp_path) as client:
        whole = await client.get("/tagged")
        again = await client.get("/tagged", headers={"if-none-match": whole.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    first, second = records(tmp_path)
    assert (second.status, second.complete) == (200, True)
    assert second.body is not None
    assert second.body == first.body
    assert second.body.to_bytes().replace(b'"***"', b"4111") == whole.content


async def test_problems_are_recorded_too_without_secrets(tmp_path: Path) -> None:
    async with gateway(tmp_path) as client:
        assert (await client.get("/failing")).status_code == 502
        assert (await client.get("/relaxed", params={"n": "x", "token": "hush"})).status_code == 400
        await until(lambda: len(records(tmp_path)) == 2)
    failing, refused = records(tmp_path)
    assert (failing.status, failing.failure, failing.complete) == (502, "upstream_status", False)
    assert failing.body is not None
    assert not failing.body.is_kept
    assert (refused.status, refused.failure, refused.steps) == (400, "invalid_parameters", [])
    assert refused.body is not None
    body = refused.body.to_bytes()
    assert b"hush" not in body
    assert b'"name":"n"' in body
    assert b"value" not in body


async def test_a_refusal_is_recorded_as_it_was_before_its_compression(tmp_path: Path) -> None:
    async with gateway(tmp_path) as client:
        response = await client.get("/refused", headers={"accept-encoding": "gzip"})
    assert (response.status_code, response.headers["content-encoding"]) == (409, "gzip")
    (record,) = records(tmp_path)
    assert (record.status, record.failure, record.complete, [step.failure for step in record.steps]) == (409, "refused", False, ["refused"])
    assert record.body is not None
    assert record.body.to_bytes() == response.content


async def test_only_endpoints_with_a_journal_are_recorded(tmp_path: Path) -> None:
    async with gateway(tmp_path, allow_explain=True) as client:
        for path in ("/off", "/sampled", "/relaxed?_explain=true"):
            assert (await client.get(path)).status_code == 200
    assert records(tmp_path) == []


async def test_head_is_recorded_without_a_body(tmp_path: Path) -> None:
    async with gateway(tmp_path) as client:
        assert (await client.head("/relaxed")).status_code == 200
    (record,) = records(tmp_path)
    assert (record.request.method, record.body) == ("HEAD", None)


async def test_a_client_that_disconnects_before_its_response_leaves_no_record(tmp_path: Path) -> None:
    async with gateway(tmp_path) as client:
        await client.get("/off")  # so that the connection exists and only the answer is pending
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/slow", timeout=0.5)
    assert records(tmp_path) == []


async def test_the_shutdown_of_the_gateway_writes_queued_records(tmp_path: Path) -> None:
    async with gateway(tmp_path) as client:
        await asyncio.gather(*(client.get("/relaxed") for _ in range(30)))
    assert len({record.id for record in records(tmp_path)}) == 30
    assert all(segment.is_closed and verify(segment).is_sound for segment in listed(tmp_path / "j"))


# ------------------------------------------------------------------------------------------------------ a real small disk


def can_mount(folder: Path) -> bool:
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False)
    return done.returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path | None]:
    """A file system of 1 MiB; None without permission to mount one."""
    folder = tmp_path / "j"
    if not can_mount(folder):
        yield None
        return
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_full_disk_fails_only_required_endpoints_until_it_recovers(
    tmp_path: Path, small_disk: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anabranch.journal import disk

    filler = tmp_path / "j" / "filler"
    write = disk.Appender.append

    async def append(self: disk.Appender, data: bytes) -> None:
        if filler.exists():
            raise OSError(28, "No space left on device")
        await write(self, data)

    def fill() -> None:
        if small_disk is None:
            filler.write_text("x")
            return
        with filler.open("wb", buffering=0) as file:
            try:
                while file.write(b"x" * 4096):
                    pass
            except OSError:
                return

    if small_disk is None:
        monkeypatch.setattr(disk.Appender, "append", append)
    async with gateway(tmp_path) as client:
        assert (await client.post("/required/1", json={})).status_code == 200
        fill()
        for number in range(300):
            answer = await client.post(f"/required/{number}", json={"x": "y" * 100})
            if answer.status_code == 503:
                break
        assert answer.status_code == 503
        assert answer.json()["type"] == "/problems/journal_unavailable"
        assert int(answer.headers["retry-after"]) >= 1
        assert "x-request-id" in answer.headers
        ready = await client.get("/readyz")
        assert ready.status_code == 200
        assert "journal" in ready.text
        for _ in range(20):
            assert (await client.get("/relaxed")).status_code == 200
        assert (await client.get("/off")).status_code == 200
        assert (await client.post("/required/2", json={})).status_code == 503
        seen = {record.request.id for record in records(tmp_path) if record.endpoint.startswith("post_required")}
        filler.unlink()

        async def works() -> bool:
            return (await client.post("/required/3", json={}, headers={"x-request-id": "after"})).status_code == 200

        async with asyncio.timeout(40):
            while not await works():
                await asyncio.sleep(0.1)
        assert "journal" not in (await client.get("/readyz")).text
        await until(lambda: sum(record.endpoint == "get_relaxed" for record in records(tmp_path)) == 20)
    after = [record.request.id for record in records(tmp_path)]
    assert len(after) == len(set(after))
    assert seen <= set(after)
    assert all(verify(segment).is_sound for segment in listed(tmp_path / "j"))


async def test_a_read_only_folder_fails_only_required_endpoints_until_it_recovers(tmp_path: Path, small_disk: Path | None) -> None:
    folder = tmp_path / "j"
    if small_disk is None:
        folder.rmdir()
        folder.write_text("not a folder")
    else:
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    async with gateway(tmp_path) as client:
        assert (await client.post("/required/1", json={})).status_code == 503
        assert (await client.get("/relaxed")).status_code == 200
        if small_disk is None:
            folder.unlink()
        else:
            subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
        async with asyncio.timeout(40):
            while (await client.post("/required/2", json={})).status_code != 200:
                await asyncio.sleep(0.1)
    assert [record.endpoint for record in records(tmp_path)].count("get_relaxed") == 1


# ------------------------------------------------------------------------------------------------------------- the view


TRACED = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}


async def test_the_admin_server_shows_recent_records_with_the_token(tmp_path: Path) -> None:
    async with ScriptedUpstream(ROUTES) as upstream:
        path = tmp_path / "gateway.yaml"
        path.write_text(DOCUMENT.replace("URL", f"http://{LOOPBACK}:{upstream.port}"))
        options: dict[str, Any] = {"admin_port": 0, "access_log": "off", "reload": "off", "journal_path": tmp_path / "j"}
        process = assemble(Settings(document=path, admin_token="a-long-token", **options))
        async with serve(process.app) as port:
            address = f"http://{LOOPBACK}:{admin_port_of(process)}"
            async with (
                httpx.AsyncClient(base_url=f"http://{LOOPBACK}:{port}", timeout=60) as client,
                httpx.AsyncClient(base_url=address, timeout=60) as admin,
            ):
                assert (await admin.get("/admin/journal")).status_code == 401
                admin.headers["authorization"] = "Bearer a-long-token"
                assert (await admin.get("/admin/journal")).json() == {"records": []}
                for number in range(3):
                    await client.post(f"/required/{number}", json={"password": "p"}, headers={"x-request-id": f"r-{number}", **TRACED})
                found = (await admin.get("/admin/journal", params={"limit": 2, "status": "2xx", "since": "1h"})).json()["records"]
                assert len(found) == 2
                whole = (await admin.get(f"/admin/journal/{found[0]['id']}")).json()
                assert whole["request"]["path"] == "/required/2"
                assert whole["request"]["trace"] == "4bf92f3577b34da6a3ce929d0e0e4736"
                assert (await admin.get("/admin/journal/r-2")).json() == whole
                one = (await admin.get("/admin/journal", params={"request": "r-1", "path": "/required/*"})).json()["records"]
                assert [record["request"]["path"] for record in one] == ["/required/1"]
                assert (await admin.get("/admin/journal/none")).status_code == 404
                assert (await admin.get("/admin/journal/sinks")).json() == {"sinks": []}
                for wrong in ({"since": "x"}, {"status": "5"}, {"statsu": "404"}, {"limit": "0"}, {"limit": "many"}):
                    refused = await admin.get("/admin/journal", params=wrong)
                    assert refused.status_code == 400
                    assert f"`{next(iter(wrong))}`" in refused.json()["detail"]
                assert (await client.get("/admin/journal")).status_code == 404


async def test_without_a_token_the_admin_server_shows_no_records(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(DOCUMENT.replace("URL", "http://127.0.0.1:1"))
    process = assemble(Settings(document=path, admin_port=0, access_log="off", reload="off", journal_path=tmp_path / "j"))
    async with serve(process.app), httpx.AsyncClient(base_url=f"http://{LOOPBACK}:{admin_port_of(process)}", timeout=60) as admin:
        assert (await admin.get("/admin/journal")).status_code == 404


async def test_readiness_names_an_unwritable_journal_until_a_reload_replaces_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "gateway.yaml"
    async with ScriptedUpstream(ROUTES) as upstream:
        document = DOCUMENT.replace("URL", f"http://{LOOPBACK}:{upstream.port}")
        blocked = document.replace("journal: {flush_interval", f"journal: {{path: {tmp_path / 'file' / 'no'}, flush_interval")
        path.write_text(blocked)
        process = assemble(Settings(document=path, access_log="off", reload="off"))
        async with serve(process.app) as port, httpx.AsyncClient(base_url=f"http://{LOOPBACK}:{port}", timeout=60) as client:
            assert (await client.post("/required/1", json={})).status_code == 503
            ready = await client.get("/readyz")
            assert ready.status_code == 200
            assert ready.json()["reasons"][0].startswith("the journal cannot be written")
            path.write_text(blocked.replace(str(tmp_path / "file" / "no"), str(tmp_path / "fine")))
            assert not (await process.reloader.reload("test")).is_failed
            assert (await client.post("/required/1", json={})).status_code == 200
            assert (await client.get("/readyz")).json()["reasons"] == []
