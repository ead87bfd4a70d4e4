"""The database is down under load for the duration of several segments, while retention wants to delete unshipped ones. Uses a complete
gateway and a real PostgreSQL, and finally compares every answer by its id with the rows of the table."""

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from anabranch.journal.reader import records
from anabranch.journal.segment import Segment, listed
from anabranch.main import assemble
from anabranch.settings import Settings
from anabranch.sinks import shipper as shipping
from anabranch.testing.scripted.upstream import ScriptedUpstream
from anabranch.testing.serving import LOOPBACK, serve
from tests.support.gateway import admin_port_of
from tests.support.postgres import PostgresServer

KEEP_BYTES = 24 * 1024
QUEUE_RECORDS = 10_000
CLIENTS = 4
TABLE = "outage"
DOCUMENT = """
version: 1
upstreams: {{a: {{url: "{url}"}}}}
defaults: {{timeout: 30s}}
endpoints:
  - path: /x
    steps: {{one: {{upstream: a, path: /one}}}}
    journal: true
journal:
  min_free: 1MiB
  segment_size: 64KiB
  segment_age: 1s
  keep_size: {keep}
  flush_interval: 10ms
  queue_records: {queue}
  on_full: drop
  sinks: [{{postgres: {{url: "{database}", table: {table}, interval: 50ms}}}}]
"""
# Random digits hardly compress, so the journal grows quickly.
BODY = random.Random(7).randbytes(2000).hex()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as running:
        yield running


class Load:
    """Clients that send requests until `stop`. `answered`: the request ids of all answers, which must have status 200."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._is_over = False
        self.answered: list[str] = []

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(self._ask(number))

    def stop(self) -> None:
        self._is_over = True

    async def _ask(self, client: int) -> None:
        number = 0
        while not self._is_over:
            number += 1
            request_id = f"c{client}-{number}"
            answer = await self._client.get("/x", headers={"x-request-id": request_id})
            assert answer.status_code == 200, answer.text
            assert answer.headers["x-request-id"] == request_id
            self.answered.append(request_id)


async def test_no_record_is_lost_or_duplicated_and_no_request_waits_during_an_outage(
    server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # As after hours of outage, but with a short backoff.
    monkeypatch.setattr(shipping, "_MAX_BACKOFF_S", 0.3)
    caplog.set_level(logging.INFO, "anabranch.journal")
    folder = tmp_path / "journal"
    document = tmp_path / "gateway.yaml"
    async with ScriptedUpstream({"*": {"json": BODY}}) as upstream:
        options = {"url": upstream.url, "database": server.url, "table": TABLE, "keep": KEEP_BYTES, "queue": QUEUE_RECORDS}
        document.write_text(DOCUMENT.format(**options), "utf-8")
        process = assemble(
            Settings(document=document, reload="off", access_log="off", journal_path=folder, admin_port=0, admin_token="a-long-token")
        )
        async with (
            serve(process.app) as port,
            httpx.AsyncClient(base_url=f"http://{LOOPBACK}:{port}", timeout=60) as client,
            httpx.AsyncClient(
                base_url=f"http://{LOOPBACK}:{admin_port_of(process)}",
                headers={"authorization": "Bearer a-long-token"},
                timeout=60,
                limits=httpx.Limits(max_keepalive_connections=0),  # it is asked so seldom that the server closes idle connections
            ) as admin,
        ):
            journal, shippers = process.reloader.service.journal, process.reloader.service.shippers
            assert journal is not None
            assert shippers is not None
            (shipper,) = shippers.each
            load = Load(client)
            loading = asyncio.create_task(load.run())
            # While the database is up, retention deletes shipped segments: there is constant pressure.
            await _until(lambda: journal.counters.deleted >= 2, loading)
            await _sound(client, admin, is_shipped=True)

            await asyncio.to_thread(server.stop)
            try:
                await _until(lambda: shipper.counters.trouble is not None, loading)
                at_stop = shipper.counters.records
                await _until(lambda: _size(_sink_note(folder, shipper.is_needed)) > 2 * KEEP_BYTES, loading)
                await _until(lambda: shipper.counters.failures >= 4, loading)
                waiting = {segment.name for segment in _sink_note(folder, shipper.is_needed)}
                assert len(waiting) >= 3
                # Two more segments are closed, and retention has examined all segments after each.
                compressed = journal.counters.compressed
                await _until(lambda: journal.counters.compressed >= compressed + 2, loading)
                assert waiting <= {segment.name for segment in listed(folder)}
                assert shipper.counters.records == at_stop
                await _sound(client, admin, is_shipped=False)
            finally:
                await asyncio.to_thread(server.start)
            await _until(lambda: shipper.counters.trouble is None, loading)
            # The waiting segments are shipped, and then deleted as the next segments are closed.
            await _until(lambda: not waiting & {segment.name for segment in listed(folder)}, loading)
            load.stop()
            async with asyncio.timeout(60):
                await loading
            # Counted in the table: records stored just when the connection broke do not count as new when shipped again.
            async with asyncio.timeout(120):
                while len(await _rows(server)) < len(load.answered):
                    await asyncio.sleep(0.1)
            await _until(lambda: shipper.counters.trouble is None)
            await _sound(client, admin, is_shipped=True)
            assert (journal.counters.dropped, journal.counters.trouble) == (0, None)
    assert len(load.answered) == len(set(load.answered))
    found = await _rows(server)
    assert len({row["id"] for row in found}) == len(found)
    assert sorted(row["request_id"] for row in found) == sorted(load.answered)
    # The remaining segments have been shipped too; retention did not need to delete them yet.
    assert {record.request.id for record in records(folder)} <= set(load.answered)
    told = [entry.getMessage() for entry in caplog.records if "shipped to" in entry.getMessage()]
    assert len(told) == 2, told
    assert "the journal cannot be shipped to postgres-" in told[0]
    assert told[1].endswith("again")


async def _sound(client: httpx.AsyncClient, admin: httpx.AsyncClient, *, is_shipped: bool) -> None:
    """The gateway stays ready, names the sink while it is unreachable, and keeps its queue within its bounds."""
    ready = await client.get("/readyz")
    assert ready.status_code == 200
    (view,) = (await admin.get("/admin/journal/sinks")).json()["sinks"]
    metrics = (await admin.get("/metrics")).text
    healthy = next(line for line in metrics.splitlines() if line.startswith("anabranch_journal_ship_healthy{"))
    assert float(healthy.rpartition(" ")[2]) == float(is_shipped)
    if is_shipped:
        assert ready.json() == {"status": "ready", "reasons": []}
        assert view["trouble"] is None
    else:
        assert ready.json()["reasons"] == [f"the journal cannot be shipped to {view['name']} now; its records wait on disk"]
        assert "the database" in view["trouble"]
        assert view["failures"] >= 4
        assert view["waiting_segments"] >= 3
        assert view["waiting_bytes"] > KEEP_BYTES
    queued = next(line for line in metrics.splitlines() if line.startswith("anabranch_journal_queue_records "))
    assert float(queued.rpartition(" ")[2]) <= QUEUE_RECORDS


def _sink_note(folder: Path, is_needed: Callable[[Segment], bool]) -> list[Segment]:
    return [segment for segment in listed(folder) if segment.is_closed and is_needed(segment)]


def _size(segments: list[Segment]) -> int:
    return sum(segment.size_bytes for segment in segments)


async def _rows(server: PostgresServer) -> list[Any]:
    connection = await asyncpg.connect(server.url)
    try:
        found: list[Any] = await connection.fetch(f"SELECT id, request_id FROM {TABLE}")
        return found
    finally:
        await connection.close()


async def _until(is_true: Callable[[], object], running: "asyncio.Task[None] | None" = None) -> None:
    """Return when the condition holds. Raises the exception of `running` if that ends first."""
    async with asyncio.timeout(120):
        while not is_true():
            if running is not None and running.done():
                await running
            await asyncio.sleep(0.02)
