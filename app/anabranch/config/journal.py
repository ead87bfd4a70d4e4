"""The journal in the document: where it is kept, how sure a record is, what is left out of it, and where it is shipped."""

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from anabranch.config.base import HeaderName, Model
from anabranch.config.units import Duration, Ratio, Size


class JournalRule(Model):
    """What an endpoint keeps of its responses."""

    sample: Ratio = 1.0
    """Share of the responses that are recorded."""
    bodies: Literal["response", "steps", "none"] = "response"
    """`response`: the response's body. `steps`: that, the request's body and every upstream's answer, as replay needs. `none`: digests of
    all of them. Methods, targets, statuses and timings are kept in any case."""
    durability: Literal["relaxed", "required"] | None = None
    """`relaxed`: answer first. `required`: answer only when the record is on the disk. Without it as the document's `journal` says."""
    headers: list[HeaderName] = []
    """Request header fields that are kept."""


class Postgres(Model):
    """A PostgreSQL database that records are copied to (extra `postgres`)."""

    url: str
    """Connection URL; put the password in by `${NAME}` or `${file:PATH}`."""
    table: str = Field("anabranch_journal", pattern=r"^[a-z_][a-z0-9_]{0,50}$")
    """Partitioned table; made when it is not there."""
    interval_s: Duration = Field(10.0, alias="interval")
    """New records are shipped this often."""

    @field_validator("url")
    @classmethod
    def _is_url(cls, url: str) -> str:
        """A password is in it: what urllib says of it must not be repeated."""
        try:
            is_url = urlsplit(url).scheme in ("postgresql", "postgres") and (urlsplit(url).port or 1) > 0
        except ValueError:
            is_url = False
        if not is_url:
            raise ValueError("a connection URL is postgresql://user:password@host:port/database")
        return url


class Sink(Model):
    """One place that the journal is shipped to, at least once."""

    postgres: Postgres
    """A PostgreSQL database."""


class Redact(Model):
    """What never reaches the journal."""

    headers: list[HeaderName] = ["authorization", "cookie", "set-cookie", "proxy-authorization", "x-api-key"]
    """Header fields whose value is replaced by `***`."""
    query: list[str] = ["token", "access_token", "api_key", "apikey", "password", "secret"]
    """Query parameters whose value is replaced by `***`."""
    paths: list[str] = []
    """Paths in all bodies whose value is replaced by `***`; they go into arrays. `**.name` is every member of that name. In a step's bodies a
    path that begins with the step's name also counts without it."""


class Journal(Model):
    """The durable, append-only log of what was answered."""

    path: str = "journal"
    """Folder of the segments, relative to the working directory. Each worker process has its own files in it. The setting
    `ANABRANCH_JOURNAL_PATH` wins over it."""
    durability: Literal["relaxed", "required"] = "relaxed"
    """For endpoints that say nothing else."""
    flush_interval_s: Duration = Field(0.05, alias="flush_interval")
    """How often relaxed records are put on the disk: a crash loses at most what came since."""
    on_full: Literal["wait", "drop"] = "drop"
    """What a relaxed record does when the queue is full: `wait` (up to the deadline, behind the response) or `drop` (counted)."""
    queue_records: int = Field(10_000, ge=1)
    """Records that may wait to be written."""
    queue_size: Size = 64 * 1024 * 1024
    """Bytes that may wait to be written."""
    segment_size: Size = 64 * 1024 * 1024
    """A segment that has grown to this is closed and compressed."""
    segment_age_s: Duration = Field(600.0, alias="segment_age")
    """A segment this old is closed and compressed."""
    keep_age_s: Duration | None = Field(None, alias="keep_age")
    """Closed segments older than this are deleted. Without it age deletes none."""
    keep_size: Size | None = None
    """The oldest closed segments are deleted while all together are larger than this. Without it size deletes none."""
    min_free: Size = 256 * 1024 * 1024
    """Nothing is written while the file system has less room than this."""
    redact: Redact = Redact()
    """What never reaches the journal."""
    sinks: list[Sink] = []
    """Where records are shipped. What is not shipped yet is never deleted by `keep_age` and `keep_size`."""

    @model_validator(mode="after")
    def _ordered(self) -> "Journal":
        if self.segment_size < 64 * 1024:
            raise ValueError("segment_size is at least 64KiB")
        return self
