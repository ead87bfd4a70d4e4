"""A journal is shipped to a real PostgreSQL: every record exactly once, whatever happens to the database meanwhile."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from typer.testing import CliRunner

from anabranch.cli.main import cli
from anabranch.config.journal import Postgres
from anabranch.journal.record import Record, encode
from anabranch.sinks.postgres import PostgresSink
from anabranch.sinks.shipper import Shipper
from anabranch.sinks.sink import Shipment, SinkError
from anabranch.testing.scripted.upstream import ScriptedUpstream
from tests.support.gateway import running_gateway
from tests.support.postgres import PostgresServer
from tests.support.recorded import answered, recorded, write_segment

DOCUMENT = """
version: 1
upstreams: {{a: {{url: "{url}"}}}}
endpoints:
  - path: /x/{{id}}
    steps: {{one: {{upstream: a, path: /one}}}}
    journal: true
journal: {{sinks: [{{postgres: {{url: "{database}", table: {table}, interval: 50ms}}}}]}}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as running:
        yield running


@pytest.fixture
def config(server: PostgresServer, request: pytest.FixtureRequest) -> Postgres:
    """A table for each test."""
    return Postgres(url=server.url, table=f"t{abs(hash(request.node.name)) % 10**9}")


def records(count: int, *, first: int = 0, step_s: float = 1.0) -> list[Record]:
    return [
        recorded(f"/x/{number}", b'{"n":1.0}', [answered("one", "a", "/one", b'"\\u0000 \\ud800"')], at_s=number * step_s)
        for number in range(first, first + count)
    ]


async def rows(config: Postgres, query: str = "SELECT * FROM {table} ORDER BY time, id", *values: Any) -> list[Any]:
    connection = await asyncpg.connect(config.url)
    try:
        found: list[Any] = await connection.fetch(query.format(table=config.table), *values)
        return found
    finally:
        await connection.close()


async def ids(config: Postgres) -> list[str]:
    return [str(row["id"]) for row in await rows(config)]


async def test_segments_of_both_forms_are_shipped_with_the_configured_columns(config: Postgres, tmp_path: Path) -> None:
    one, other = records(50), records(30, first=50)
    write_segment(tmp_path, one, is_closed=True)
    write_segment(tmp_path, other, sequence=2)
    shipper = Shipper(tmp_path, PostgresSink(config), interval_s=1)
    assert await shipper.ship()
    assert (shipper.counters.records, shipper.counters.fresh) == (80, 80)
    await shipper.aclose()
    found = await rows(config)
    assert [str(row["id"]) for row in found] == [record.id for record in (*one, *other)]
    first = found[0]
    assert (first["time"], first["endpoint"], first["status"], first["complete"], first["path"]) == (one[0].time, "x", 200, True, "/x/0")
    assert first["record"].encode() + b"\n" == encode(one[0])


async def test_each_day_has_its_partition_and_old_ones_can_be_dropped(config: Postgres, tmp_path: Path) -> None:
    write_segment(tmp_path, records(4, step_s=86400), is_closed=True)
    shipper = Shipper(tmp_path, PostgresSink(config), interval_s=1)
    await shipper.ship()
    await shipper.aclose()
    await rows(config, "DROP TABLE {table}_20261122")
    assert len(await ids(config)) == 3
    plan = "\n".join(row[0] for row in await rows(config, "EXPLAIN SELECT * FROM {table} WHERE time = '2026-11-23 12:00+00'"))
    assert "20261123" in plan
    assert "20261124" not in plan


async def test_records_shipped_again_are_skipped(config: Postgres, tmp_path: Path) -> None:
    one = records(20)
    sink = PostgresSink(config)
    shipments = [Shipment(record, encode(record)[:-1]) for record in one]
    assert await sink.ship(shipments[:12]) == 12
    assert await sink.ship(shipments) == 8
    assert await sink.ship(shipments) == 0
    await sink.aclose()
    assert len(await ids(config)) == 20


async def test_a_new_process_continues_from_the_checkpoint(config: Postgres, tmp_path: Path) -> None:
    write_segment(tmp_path, records(20), is_closed=True)
    first = Shipper(tmp_path, PostgresSink(config), interval_s=1)
    await first.ship()
    await first.aclose()
    write_segment(tmp_path, records(5, first=20), sequence=2)
    second = Shipper(tmp_path, PostgresSink(config), interval_s=1)
    await second.ship()
    await second.aclose()
    assert second.counters.records == 5
    assert len(await ids(config)) == 25


async def test_several_gateways_may_start_at_once(config: Postgres, tmp_path: Path) -> None:
    for number in range(4):
        write_segment(tmp_path / str(number), records(5, first=5 * number, step_s=40_000), is_closed=True)
    shippers = [Shipper(tmp_path / str(number), PostgresSink(config), interval_s=1) for number in range(4)]
    await asyncio.gather(*(shipper.ship() for shipper in shippers))
    for shipper in shippers:
        await shipper.aclose()
    assert len(await ids(config)) == 20


async def test_a_record_rejected_by_the_database_does_not_block_the_others(config: Postgres, tmp_path: Path) -> None:
    good = records(9)
    bad = recorded("/x/bad", b"{}", [], endpoint="a\0b")
    sink = PostgresSink(config)
    assert await sink.ship([Shipment(record, encode(record)[:-1]) for record in (*good[:4], bad, *good[4:])]) == 9
    assert sink.rejected == 1
    await sink.aclose()
    assert len(await ids(config)) == 9


async def test_errors_do_not_reveal_the_password(tmp_path: Path) -> None:
    for url in ("postgresql://me:hunter2@127.0.0.1:1/x", "postgresql://me:hunter2@127.0.0.1:1/x?sslmode=nonsense"):
        sink = PostgresSink(Postgres(url=url))
        with pytest.raises(SinkError) as caught:
            await sink.ship([Shipment(record, encode(record)[:-1]) for record in records(1)])
        assert "hunter2" not in str(caught.value)


async def test_a_gateway_ships_its_records_and_the_command_ships_the_rest(config: Postgres, tmp_path: Path) -> None:
    async with ScriptedUpstream({"*": {"json": 1}}) as upstream:
        document = DOCUMENT.format(url=upstream.url, database=config.url, table=config.table)
        async with running_gateway(document, tmp_path, journal_path=tmp_path / "journal") as gateway, gateway.client() as client:
            for number in range(5):
                assert (await client.get(f"/x/{number}")).status_code == 200
    assert sorted(row["path"] for row in await rows(config)) == [f"/x/{number}" for number in range(5)]
    write_segment(tmp_path / "journal", records(3), worker="a" * 10)
    command = ["journal", "ship", str(tmp_path / "gateway.yaml"), "--journal", str(tmp_path / "journal")]
    result = await asyncio.to_thread(CliRunner().invoke, cli, command)
    assert (result.exit_code, result.stdout.partition(": ")[2]) == (0, "3 records shipped, 3 of them new to the database\n"), result.output
    assert len(await ids(config)) == 8


async def test_one_process_ships_a_folder_and_another_takes_over(config: Postgres, tmp_path: Path) -> None:
    write_segment(tmp_path, records(5), is_closed=True)
    first, second = (Shipper(tmp_path, PostgresSink(config), interval_s=1) for _ in range(2))
    assert await first.ship()
    assert not await second.ship()
    await first.aclose()
    assert await second.ship()
    await second.aclose()
    assert second.counters.records == 0
