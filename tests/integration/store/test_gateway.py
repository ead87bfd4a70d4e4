"""The store as a part of a gateway: readiness, metrics, reloads, secrets, and what stands in for it in tests."""

import logging
from pathlib import Path

import pytest

from anabranch.document.compile import compile_file
from anabranch.document.service import Hooks
from anabranch.document.services import Services
from anabranch.document.upstreams import Opener
from anabranch.errors import ConfigError
from anabranch.settings import Settings
from anabranch.store.memory import MemoryStore
from anabranch.store.redis import RedisStore
from anabranch.upstream.open import open_transport
from tests.support.gateway import running_gateway
from tests.support.ports import free_port
from tests.support.valkey import ValkeyServer

DOCUMENT = """
version: 1
upstreams: {{a: {{url: "http://127.0.0.1:9"}}}}
store: {{redis: {{url: "{url}", timeout: 2s, prefix: "gateway:"}}}}
endpoints: [{{path: /a, steps: {{a: {{upstream: a, path: /a}}}}}}]
"""


async def test_readiness_and_metrics_tell_when_the_store_is_away(valkey: ValkeyServer, tmp_path: Path) -> None:
    async with running_gateway(DOCUMENT.format(url=valkey.url), tmp_path) as gateway, gateway.client() as client:

        async def told() -> tuple[int, list[str], bool]:
            ready, metrics = await client.get("/readyz"), await client.get("/metrics")
            return ready.status_code, ready.json()["reasons"], "anabranch_store_away 1.0" in metrics.text

        assert await told() == (200, [], False)
        valkey.stop()
        reasons: list[str] = []
        for _ in range(1000):
            status, reasons, is_away = await told()
            if is_away:
                break
        assert status == 200
        assert len(reasons) == 1
        assert reasons[0].startswith("the shared store is away: ")
        valkey.start()
        while await told() != (200, [], False):
            pass


def services(path: Path, stand_in: Opener | None = None) -> Services:
    return Services(
        path,
        compile_file(path),
        Settings(document=path),
        hooks=Hooks(),
        hide=lambda _: lambda: None,
        stand_in=stand_in,
    )


async def test_a_reload_opens_the_store_again_and_keeps_what_is_in_memory(valkey: ValkeyServer, tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(DOCUMENT.format(url=valkey.url), "utf-8")
    made = services(path)
    async with made.first as first:
        assert isinstance(first.store, RedisStore)
        await first.store.put(b"a", b"1", 60)
        await first.memory.put(b"a", b"2", 60)
        async with made.again() as second:
            assert second.store is not first.store
            assert second.memory is first.memory
            assert second.store is not None
            assert await second.store.get(b"a") == b"1"
            path.write_text("version: 1\n", "utf-8")
            assert made.again().store is None
    assert list(first.notes()) == []


async def test_where_scripted_services_stand_in_so_does_the_store_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(DOCUMENT.format(url=f"redis://127.0.0.1:{free_port()}"), "utf-8")
    made = services(path, stand_in=open_transport)
    assert isinstance(made.first.store, MemoryStore)
    assert made.first.store is made.first.memory
    async with made.first:
        assert await made.first.store.get(b"a") is None
    assert list(made.first.notes()) == []


def test_the_files_of_tls_are_watched_and_read_when_the_document_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text('version: 1\nstore: {redis: {url: "rediss://there", tls: {ca: ca.pem}}}\n', "utf-8")
    with pytest.raises(ConfigError) as caught:
        compile_file(path)
    (problem,) = caught.value.problems
    assert (problem.path, problem.line) == ("store.redis.tls", 2)
    assert "ca.pem cannot be read" in problem.message
    import trustme

    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    assert str(tmp_path / "ca.pem") in services(path).first.files


def test_without_the_library_the_problem_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anabranch.document.store.find_spec", lambda _: None)
    path = tmp_path / "gateway.yaml"
    path.write_text("version: 1\nstore:\n  redis: {url: redis://there}\n", "utf-8")
    with pytest.raises(ConfigError) as caught:
        compile_file(path)
    (problem,) = caught.value.problems
    assert (problem.path, problem.line) == ("store.redis", 3)
    assert problem.message == "a store in Redis or Valkey needs the extra 'redis': pip install 'anabranch[redis]'"


async def test_no_secret_of_the_store_is_in_a_log_or_in_readiness(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORE_PASSWORD", "hunter2-hunter2")
    url = f"redis://gw:${{STORE_PASSWORD}}@127.0.0.1:{free_port()}/3"
    with caplog.at_level(logging.DEBUG):
        async with running_gateway(DOCUMENT.format(url=url), tmp_path) as gateway, gateway.client() as client:
            ready = await client.get("/readyz")
            described = await client.get("/openapi.json")
    assert ready.status_code == 200
    assert ready.json()["reasons"] == ["the shared store is away: it cannot be reached"]
    assert "hunter2" not in ready.text + described.text + caplog.text
