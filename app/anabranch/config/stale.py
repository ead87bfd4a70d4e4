"""The memory for answers that stand in when a service fails."""

from pydantic import Field

from anabranch.config.base import Model
from anabranch.config.units import Size


class StaleMemory(Model):
    """How much is remembered for calls with `stale_if_error`. What was not asked for longest is forgotten first."""

    entries: int = Field(10_000, ge=1)
    """Answers, of all upstreams together. Each worker process has its own memory."""
    size: Size = 64 * 1024 * 1024
    """Bytes of these answers."""
