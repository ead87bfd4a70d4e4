"""Turns a hook's reply into the step's value or an error. Exceptions of the hook go to the operator's log only, except `Refused`."""

import logging

from anabranch.compute.call import JobReply, ReplyKind
from anabranch.compute.job import Job, PoolCounters
from anabranch.compute.refusal import unpack
from anabranch.errors import ComputeError, ComputeFailed, ComputeInvalidInput, ComputeInvalidResult

logger = logging.getLogger("anabranch.compute")

_ERRORS: dict[ReplyKind, tuple[type[ComputeError], str]] = {
    ReplyKind.FAILED: (ComputeFailed, "the function raised an exception"),
    ReplyKind.INVALID_INPUT: (ComputeInvalidInput, "the arguments do not match the function's annotations"),
    ReplyKind.INVALID_RESULT: (ComputeInvalidResult, "the function's result does not match its annotation or is not JSON"),
}


def settle(job: Job, reply: JobReply, counters: PoolCounters) -> bytes:
    """The value. Counts the job. Raises ComputeRefused, ComputeFailed, ComputeInvalidInput or ComputeInvalidResult."""
    if reply.kind is ReplyKind.VALUE:
        counters.done += 1
        return reply.payload
    if reply.kind is ReplyKind.REFUSED:
        counters.refused += 1
        raise unpack(reply.payload).to_error()
    counters.failed += 1
    kind, detail = _ERRORS[reply.kind]
    logger.error("hook %s of step %s: %s\n%s", job.hook, job.lane, detail, reply.payload.decode(errors="replace").rstrip())
    raise kind(detail, may_be_processed=True)
