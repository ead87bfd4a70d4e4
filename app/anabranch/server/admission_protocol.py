"""The HTTP protocol with admission control before the parser: at the concurrency limit, a connection's next request waits unparsed.

An admitted request is parsed and served as usual. A rejected request is still parsed, to find where the next one starts, but creates no
ASGI scope or task: its answer is written at the end of its head.
"""

from typing import Any, ClassVar, Final

from anabranch.edge.admission import ADMITTED, Rejections, rejection
from anabranch.guard.concurrency import Gate
from anabranch.server.backlog import Backlog
from anabranch.server.http1.connection import BoundedProtocol
from anabranch.server.http1.cycle import as_response
from anabranch.server.http1.head import Head

_EMPTY: Final = frozenset({b"", b"\r"})


class AdmissionProtocol(BoundedProtocol):
    """For `uvicorn.Config(http=...)`, made by `with_admission`. `backlog`: holds connections that arrive at the concurrency limit."""

    backlog: ClassVar[Backlog]
    rejections: ClassVar[Rejections]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._is_waiting = False
        """The next request waits in the backlog."""
        self._counted_bytes = 0
        """Of `_unread`, in the backlog's sum."""
        self._is_admitted = False
        self._is_rejected = False
        self._is_ending = False

    # ------------------------------------------------------------------------------------------------------------ waiting

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_waiting:
            self._count(len(self._unread))
            self.backlog.on_more_data(self)

    def _read_head(self) -> None:
        # A request that has begun to arrive does not wait any more: its time is running already. Empty lines are no request yet.
        has_begun = self._searched or self._is_rejected or self._unread in _EMPTY
        if has_begun or not self.backlog.must_wait(self._unread):
            super()._read_head()
            return
        self._stop_timer()  # empty lines may have started it
        self._is_waiting = True
        self._count(len(self._unread))
        if self._is_eof:
            self._watch_half_closed()
        self.backlog.add(self)

    def _is_at_rest(self) -> bool:
        return not self._is_waiting and super()._is_at_rest()

    def _is_owed_response(self) -> bool:
        return self._is_waiting or super()._is_owed_response()

    def _count(self, size: int) -> None:
        self.backlog.unread_bytes += size - self._counted_bytes
        self._counted_bytes = size

    def admit(self) -> bool:
        self._is_admitted = True
        self._read_waiting()
        has_used_slot, self._is_admitted = not self._is_admitted, False
        return has_used_slot

    def reject(self) -> None:
        self._is_rejected = True
        self._read_waiting()

    def _read_waiting(self) -> None:
        self._is_waiting = False
        self._count(0)
        super()._read_head()
        self.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_waiting:
            self._is_waiting = False
            self._count(0)
            self.backlog.discard(self)
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """During a drain, a waiting request counts as in flight: it is answered, and then the connection closes. A second call, when no
        time is left, rejects it."""
        if not self._is_waiting:
            super().shutdown()
        elif not self._is_ending:
            self._is_ending = True
        else:
            self.backlog.discard(self)
            self.reject()

    # ------------------------------------------------------------------------------------------------------------ serving

    def _serve(self, head: Head) -> None:
        if self._is_rejected:
            self._is_rejected = False
            self._answer_at_limit(head)
            return
        if self._is_ending:
            head.keeps_alive = False
        super()._serve(head)
        if self._is_admitted and self.cycle is not None and head.target != b"*":  # that one does not pass the gate
            self._is_admitted = False
            self.cycle.scope[ADMITTED] = True  # its task starts in a later iteration of the loop

    def _answer_at_limit(self, head: Head) -> None:
        fields = self.default_fields
        # After `Expect: 100-continue` the client may or may not send the body: where the next request begins is unknown.
        keeps = head.keeps_alive and not (head.expects_continue and head.length)
        # Also close during a drain, and when the client keeps sending requests without reading the answers.
        keeps = keeps and not self._is_ending and not self.is_write_paused and not any(name == b"connection" for name, _ in fields)
        problem = rejection(head.fields, self.rejections)
        self.write_head(as_response(problem, fields, is_head=head.method == "HEAD", closes=not keeps))
        if head.length:
            self._begin_body(head.length)
        if self._is_ended:
            return
        if not keeps:
            self._close()
            return
        self._rest()
        if self._unread or self._is_eof:
            self._loop.call_soon(self._go_on)  # not at once: thousands of requests may follow, and each would go one call deeper


def with_admission(protocol: type[BoundedProtocol], gate: Gate, rejections: Rejections) -> type[AdmissionProtocol]:
    """`protocol` with a backlog for `gate` in front of its parser."""
    return type("AdmissionProtocol", (AdmissionProtocol, protocol), {"backlog": Backlog(gate), "rejections": rejections})
