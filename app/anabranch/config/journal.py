"""The journal section of the document: where records are stored, how durable they are, what is redacted, and where they are shipped."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from anabranch.config.base import HeaderOfList, Model
from anabranch.config.units import Count, Duration, Ratio, Size
from anabranch.jsontext.path import parse_path


class JournalRule(Model):
    """What the journal records of an endpoint's responses."""

    sample: Ratio = 1.0
    """Share of the responses that are recorded."""
    bodies: Literal["response", "steps", "none"] = "response"
    """Bodies that are stored. `response`: the response body. `steps`: also the request body and every upstream's response body, which replay
    needs. `none`: only digests of these bodies. Methods, targets, statuses and timings are always recorded."""
    durability: Literal["relaxed", "required"] | None = None
    """`relaxed`: respond before the record is on disk. `required`: respond only after it is on disk. If unset, `journal.durability`."""
    headers: list[HeaderOfList] = []
    """Request header fields that are recorded."""


class Postgres(Model):
    """A PostgreSQL database that records are copied to. Needs the extra `postgres`."""

    url: str
    """Connection URL. Supply the password with `${NAME}` or `${file:PATH}`."""
    table: str = Field("anabranch_journal", pattern=r"^[a-z_][a-z0-9_]{0,50}$")
    """Partitioned table. Created if it does not exist."""
    interval_s: Duration = Field(10.0, alias="interval")
    """How often new records are shipped."""

    @field_validator("url")
    @classmethod
    def _is_url(cls, url: str) -> str:
        """Check the URL without repeating urllib's error, which may quote the password."""
        try:
            is_url = urlsplit(url).scheme in ("postgresql", "postgres") and (urlsplit(url).port or 1) > 0
        except ValueError:
            is_url = False
        if not is_url:
            raise ValueError("must be a connection URL such as postgresql://user:password@host:port/database")
        return url


class Sink(Model):
    """One destination that the journal is shipped to. Every record is delivered at least once."""

    postgres: Postgres
    """A PostgreSQL database."""


def _redacted_path(value: str) -> str:
    if value.startswith("**.") and len(parse_path(value.removeprefix("**."))) > 1:
        raise ValueError("`**.` is followed by one name; a name with a dot is written in double quotes")
    parse_path(value)
    return value


def _query_name(value: str) -> str:
    if "*" in value:
        raise ValueError("query parameters are listed one by one: there are no patterns, and `*` stands for nothing")
    return value


class Redact(Model):
    """Values that are redacted before a record is written."""

    headers: list[HeaderOfList] = ["authorization", "cookie", "set-cookie", "proxy-authorization", "x-api-key"]
    """Header fields whose value is replaced by `***`."""
    query: list[Annotated[str, AfterValidator(_query_name)]] = ["token", "access_token", "api_key", "apikey", "password", "secret"]
    """Query parameters whose value is replaced by `***`."""
    paths: list[Annotated[str, AfterValidator(_redacted_path)]] = []
    """Paths in all bodies whose value is replaced by `***`. A path applies to every element of an array. `**.name` matches every member of
    that name. In a step's bodies, a path that begins with the step's name also matches without it. A name with a dot or another special
    character stands in double quotes."""


class Journal(Model):
    """The durable, append-only log of responses."""

    path: str = "journal"
    """Folder of the segments, relative to the working directory. Each worker process writes its own files there. The setting
    `ANABRANCH_JOURNAL_PATH` overrides it."""
    durability: Literal["relaxed", "required"] = "relaxed"
    """Default durability of endpoints."""
    flush_interval_s: Duration = Field(0.05, alias="flush_interval")
    """How often relaxed records are flushed to disk. A crash loses at most the records since the last flush."""
    on_full: Literal["wait", "drop"] = "drop"
    """What happens to a relaxed record when the queue is full. `wait`: it waits for space, up to the deadline, after the response is sent.
    `drop`: it is dropped and counted."""
    queue_records: Count = Field(10_000, ge=1)
    """Maximum number of records waiting to be written."""
    queue_size: Size = 64 * 1024 * 1024
    """Maximum total size of the records waiting to be written."""
    segment_size: Size = 64 * 1024 * 1024
    """A segment that reaches this size is closed and compressed. At least 64KiB."""
    segment_age_s: Duration = Field(600.0, alias="segment_age")
    """A segment that reaches this age is closed and compressed."""
    keep_age_s: Duration | None = Field(None, alias="keep_age")
    """Closed segments older than this are deleted. If unset, segments are not deleted by age."""
    keep_size: Size | None = None
    """The oldest closed segments are deleted while the total size exceeds this. If unset, segments are not deleted by size."""
    min_free: Size = 256 * 1024 * 1024
    """Nothing is written while the file system has less free space than this."""
    redact: Redact = Redact()
    """Values that are redacted before a record is written."""
    sinks: list[Sink] = []
    """Where records are shipped. Records that are not shipped yet are never deleted by `keep_age` or `keep_size`."""

    @model_validator(mode="after")
    def _ordered(self) -> "Journal":
        if self.segment_size < 64 * 1024:
            raise ValueError("`segment_size` must be at least 64KiB")
        return self
