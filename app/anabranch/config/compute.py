"""Compute backends in the document: where a step's Python function runs, how many at once, and how many may wait."""

from typing import Literal

from pydantic import Field, model_validator

from anabranch.config.base import Model
from anabranch.config.units import Duration, Size


class ComputeBackend(Model):
    """A pool of workers for compute steps."""

    kind: Literal["thread", "process", "dask"]
    """`thread`: in the gateway's own process. `process`: in processes of its own, which can be killed. `dask`: on a cluster."""
    workers: int | None = Field(None, ge=1, le=1024)
    """Jobs at once. Without it as many as there are processors; for `dask` 64."""
    queue: int = Field(256, ge=0)
    """Jobs that may wait for a worker. One more is rejected at once (503). 0: nobody waits."""
    queue_timeout_s: Duration | None = Field(None, alias="queue_timeout")
    """Longest wait for a worker; then the job is rejected (503). Without it a job waits until its own deadline."""
    recycle_after: int = Field(10_000, ge=1)
    """Jobs after which a worker process is replaced by a fresh one (`process` only)."""
    max_memory: Size | None = None
    """A worker process that holds more than this after a job is replaced (`process` only)."""
    address: str | None = None
    """The scheduler, such as `tcp://scheduler:8786` (`dask` only)."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "ComputeBackend":
        if (self.kind == "dask") != (self.address is not None):
            raise ValueError("address is needed by kind: dask, and by no other")
        if self.kind != "process" and {"recycle_after", "max_memory"} & self.model_fields_set:
            raise ValueError("recycle_after and max_memory belong to kind: process")
        return self
