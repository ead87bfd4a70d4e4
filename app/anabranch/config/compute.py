"""Compute backends in the document: where the functions of compute steps run, how many jobs run at once, and how many may wait."""

from typing import Literal

from pydantic import Field, model_validator

from anabranch.config.base import Model
from anabranch.config.units import Count, Duration, Size


class ComputeBackend(Model):
    """A pool of workers for compute steps."""

    kind: Literal["thread", "process", "dask"]
    """`thread`: threads of the gateway process. `process`: separate worker processes, which can be killed. `dask`: a Dask cluster."""
    workers: int | None = Field(None, ge=1, le=1024)
    """Maximum concurrent jobs. If unset, the number of processors, or 64 for `dask`."""
    queue: Count = Field(256, ge=0)
    """Maximum jobs waiting for a worker. Further jobs are rejected immediately (503). 0: no job waits."""
    queue_timeout_s: Duration | None = Field(None, alias="queue_timeout")
    """Maximum wait for a worker; after it the job is rejected (503). If unset, a job waits until its own deadline."""
    recycle_after: Count = Field(10_000, ge=1)
    """Number of jobs after which a worker process is replaced by a fresh one (`process` only)."""
    max_memory: Size | None = None
    """A worker process that uses more memory than this after a job is replaced (`process` only). If unset, memory is not limited."""
    address: str | None = None
    """Address of the Dask scheduler, such as `tcp://scheduler:8786` (required for `dask`, not allowed for other kinds)."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "ComputeBackend":
        if (self.kind == "dask") != (self.address is not None):
            raise ValueError("`address` is required for `kind: dask` and not allowed for other kinds")
        if self.kind != "process" and {"recycle_after", "max_memory"} & self.model_fields_set:
            raise ValueError("`recycle_after` and `max_memory` are allowed only for `kind: process`")
        return self
