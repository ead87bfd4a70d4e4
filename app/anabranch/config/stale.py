"""The stale-if-error store in the document: old answers that are used when a service fails."""

from pydantic import Field

from anabranch.config.base import Model
from anabranch.config.units import Count, Size


class StaleMemory(Model):
    """Size of the store for calls with `stale_if_error`. Evicts the least recently used entry."""

    entries: Count = Field(10_000, ge=1)
    """Maximum number of stored answers, of all upstreams together. Each worker process has its own store."""
    size: Size = 64 * 1024 * 1024
    """Maximum total size of the stored answers."""
