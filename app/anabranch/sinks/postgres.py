"""Ships records to PostgreSQL: by COPY into a temporary table, then into a table with one partition for each day (UTC).

The key is the record's time and id. Existing rows are skipped, so records may be shipped any number of times. The only module that imports
asyncpg (extra `postgres`).
"""

import logging
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from hashlib import blake2b
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID
from zlib import crc32

import asyncpg

from anabranch.config.journal import Postgres
from anabranch.sinks.sink import Shipment, SinkError

logger = logging.getLogger("anabranch.journal")

_CONNECT_TIMEOUT_S: Final = 10.0
_COMMAND_TIMEOUT_S: Final = 60.0
_MAX_KNOWN_DAYS: Final = 1000

COLUMNS: Final = (
    "time", "id", "endpoint", "plan", "status", "complete", "failure", "elapsed_ms", "request_id", "method", "path", "record",
)  # fmt: skip

# `json`, not `jsonb`: it keeps the original spelling and accepts every JSON string.
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS {table} (
    time timestamptz NOT NULL,
    id uuid NOT NULL,
    endpoint text NOT NULL,
    plan text NOT NULL,
    status smallint NOT NULL,
    complete boolean NOT NULL,
    failure text,
    elapsed_ms double precision NOT NULL,
    request_id text NOT NULL,
    method text NOT NULL,
    path text NOT NULL,
    record json NOT NULL,
    PRIMARY KEY (time, id)
) PARTITION BY RANGE (time);
CREATE INDEX IF NOT EXISTS {table}_i ON {table} (id);
CREATE INDEX IF NOT EXISTS {table}_r ON {table} (request_id);
CREATE INDEX IF NOT EXISTS {table}_e ON {table} (endpoint, time);
CREATE INDEX IF NOT EXISTS {table}_f ON {table} (time) WHERE NOT complete OR status >= 500;
"""
# The database must not lose records that the checkpoint counts as shipped, whatever its own default is.
_DURABLE: Final = "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
_EXISTS: Final = "SELECT to_regclass($1) IS NOT NULL"
_DAY: Final = (
    "CREATE TABLE IF NOT EXISTS {table}_{day:%Y%m%d} PARTITION OF {table} FOR VALUES FROM ('{day} 00:00+00') TO ('{next} 00:00+00')"
)
_INCOMING: Final = "CREATE TEMPORARY TABLE IF NOT EXISTS {table}_incoming (LIKE {table}) ON COMMIT DELETE ROWS"
_MOVE: Final = "INSERT INTO {table} SELECT * FROM pg_temp.{table}_incoming ON CONFLICT DO NOTHING"


class PostgresSink:
    """One connection, opened when needed, and again after a failure. Must not be used by two tasks at once.

    `rejected`: records that the database never accepts. They are logged by their id and skipped, so that they do not block all others; they
    stay in the journal.
    """

    def __init__(self, config: Postgres) -> None:
        parts = urlsplit(config.url)
        target = f"{parts.hostname}:{parts.port}{parts.path}?{parts.query}#{config.table}"
        self.name = f"postgres-{blake2b(target.encode(), digest_size=5).hexdigest()}"
        self.rejected = 0
        self._url = config.url
        self._table = config.table
        self._connection: asyncpg.Connection | None = None
        self._days: set[date] = set()

    async def ship(self, shipments: Sequence[Shipment]) -> int:
        """Raises SinkError."""
        try:
            return await self._ship(shipments)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            await self.aclose()
            raise SinkError(_reason(error)) from error
        except ValueError as error:
            # asyncpg's message about an invalid URL may contain the URL.
            await self.aclose()
            raise SinkError("the connection URL is invalid") from error
        except BaseException:
            # Cancelled in the middle of an operation: the state of the connection is unknown.
            await self.aclose()
            raise

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        self._days.clear()
        if connection is not None:
            connection.terminate()

    async def _ship(self, shipments: Sequence[Shipment]) -> int:
        connection = await self._connected()
        await self._make_days(connection, {_day(shipment.record.time) for shipment in shipments})
        try:
            async with connection.transaction():
                await connection.copy_records_to_table(
                    f"{self._table}_incoming", schema_name="pg_temp", columns=COLUMNS, records=_rows(shipments)
                )
                done = await connection.execute(_MOVE.format(table=self._table))
            return int(done.rpartition(" ")[2])
        except asyncpg.DataError as error:
            if len(shipments) == 1:
                self.rejected += 1
                record = shipments[0].record
                logger.error("the record %s is not shipped: the database rejects it (%s)", record.id, type(error).__name__)  # noqa: TRY400
                return 0
            middle = len(shipments) // 2
            return await self._ship(shipments[:middle]) + await self._ship(shipments[middle:])

    async def _connected(self) -> asyncpg.Connection:
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        self._days.clear()
        connection = await asyncpg.connect(
            self._url, timeout=_CONNECT_TIMEOUT_S, command_timeout=_COMMAND_TIMEOUT_S, server_settings={"application_name": "anabranch"}
        )
        self._connection = connection
        await connection.execute(_DURABLE)
        # A role that may only INSERT can still ship: an existing table is not created again.
        if not await connection.fetchval(_EXISTS, self._table):
            async with connection.transaction():
                await self._lock(connection)
                await connection.execute(_TABLE.format(table=self._table))
        await connection.execute(_INCOMING.format(table=self._table))
        return connection

    async def _make_days(self, connection: asyncpg.Connection, days: set[date]) -> None:
        if len(self._days) > _MAX_KNOWN_DAYS:
            self._days.clear()
        for day in sorted(days - self._days):
            if not await connection.fetchval(_EXISTS, f"{self._table}_{day:%Y%m%d}"):
                async with connection.transaction():
                    await self._lock(connection)
                    await connection.execute(_DAY.format(table=self._table, day=day, next=day + timedelta(days=1)))
            self._days.add(day)

    async def _lock(self, connection: asyncpg.Connection) -> None:
        """Keep gateways that start at the same time from creating the same table. `IF NOT EXISTS` alone does not."""
        await connection.execute("SELECT pg_advisory_xact_lock($1)", crc32(self._table.encode()))


def _rows(shipments: Sequence[Shipment]) -> Iterator[tuple[object, ...]]:
    for shipment in shipments:
        record = shipment.record
        request = record.request
        yield (
            record.time, UUID(record.id), record.endpoint, record.plan, record.status, record.complete, record.failure,
            record.elapsed_ms, request.id, request.method, request.path, shipment.line.decode(),
        )  # fmt: skip


def _day(time: datetime) -> date:
    return time.astimezone(UTC).date()


def _reason(error: Exception) -> str:
    if isinstance(error, asyncpg.PostgresError):
        return f"database error: {error}"
    if isinstance(error, TimeoutError):
        return "the database did not answer in time"
    if isinstance(error, OSError):
        return f"the database cannot be reached: {error.strerror or type(error).__name__}"
    return "the connection to the database was lost"
