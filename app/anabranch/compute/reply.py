"""What a reply means to the step: a value, or one of our errors. What the hook itself said goes to the operator's log only."""

import logging

from anabranch.compute.call import JobReply, ReplyKind
from anabranch.compute.job import Job
from anabranch.errors import ComputeError, ComputeFailed, ComputeInvalidInput, ComputeInvalidResult

logger = logging.getLogger("anabranch.compute")

_ERRORS: dict[ReplyKind, tuple[type[ComputeError], str]] = {
    ReplyKind.FAILED: (ComputeFailed, "the function raised an exception"),
    ReplyKind.INVALID_INPUT: (ComputeInvalidInput, "what the function was given does not fit its annotations"),
    ReplyKind.INVALID_RESULT: (ComputeInvalidResult, "what the function returned cannot be used"),
}


def settle(job: Job, reply: JobReply) -> bytes:
    """The value. Raises ComputeFailed, ComputeInvalidInput or ComputeInvalidResult."""
    if reply.kind is ReplyKind.VALUE:
        return reply.payload
    kind, detail = _ERRORS[reply.kind]
    logger.error("hook %s of step %s: %s\n%s", job.hook, job.lane, detail, reply.payload.decode(errors="replace").rstrip())
    raise kind(detail, may_be_processed=True)
