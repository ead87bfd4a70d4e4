"""Caching in the document: of calls, and the memory for it."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from anabranch.config.base import Model
from anabranch.config.units import Count, Duration, DurationOrZero, Ratio, Size


class DefaultCache(Model):
    """How answers of services are cached, by the rules of a shared HTTP cache (RFC 9111). What a service says of its answer always counts."""

    ttl_s: Duration | None = Field(None, alias="ttl")
    """How long an answer is fresh of which the service does not say how long. If unset, such an answer is not used again."""
    negative_s: Duration | None = Field(None, alias="negative")
    """The same for answers that something is not there: 404, 405, 410, 414 and 501."""
    heuristic: Ratio = 0.0
    """The share of the time since its last change for which an answer is fresh of which nobody says how long (RFC 9111 section 4.2.2), one day at most. 0%:
    such an answer is not used again."""
    stale_while_revalidate_s: DurationOrZero | None = Field(None, alias="stale_while_revalidate")
    """How long after that an answer is still used while it is asked for anew in the background, where the service does not say (RFC 5861)."""
    stale_if_error_s: DurationOrZero | None = Field(None, alias="stale_if_error")
    """How long after that an answer is still used when the call fails, where the service does not say (RFC 5861). The response is marked with
    `Gateway-Complete: ?0`."""
    scope: Literal["principal", "public"] = "principal"
    """Whom an answer is for. `principal`: the client that it was asked for, as `auth` knows it; all clients of an endpoint without `auth` are one. `public`: everybody, because the
    answer is the same for all."""
    obey_client: bool = False
    """Obey `Cache-Control` and `Pragma` of the client's request, such as `no-cache` (RFC 9111 section 5.2.1). Any client can make the gateway ask the service then."""


def _in_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _different(value: list[str]) -> list[str]:
    for index, text in enumerate(value):
        if text in value[:index]:
            raise ValueError(f"`{text}` is in the list twice")
    return value


Texts = Annotated[
    list[Annotated[str, Field(min_length=1)]],
    BeforeValidator(_in_list),
    AfterValidator(_different),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
"""One template, or several."""


class Cache(DefaultCache):
    """How the answers to a call are cached."""

    key: Texts = []
    """Templates whose values are part of the key of an answer, besides the request of the call."""
    vary_on: Texts = []
    """Header fields of the client's request whose values are part of the key, by name, or references such as `{header.accept-language}`."""
    tags: Texts = []
    """Templates of names by which answers can be removed: `user-{path.id}`. `{value...}` is the answer; an array, such as `{value.tags.*}`, gives a tag for each element."""


class CacheMemory(Model):
    """The memory for stored answers, of all upstreams together. Evicts the least recently used. Each worker process has its own."""

    memory: Size = 64 * 1024 * 1024
    """Maximum total size of the stored answers."""
    entries: Count = Field(100_000, ge=1)
    """Maximum number of stored answers."""
    max_entry: Size | None = None
    """Maximum size of one stored answer. A larger one is not stored. If unset, an eighth of `memory`."""
    shared: bool = True
    """Keep answers in the document's `store` too, if it has one: then all gateways of a fleet use them, and only one of them asks for a missing answer."""


class StaleMemory(Model):
    """The old name of `cache`."""

    entries: Count = Field(10_000, ge=1)
    """As `cache.entries`."""
    size: Size = 64 * 1024 * 1024
    """As `cache.memory`."""
