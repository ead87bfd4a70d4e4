"""uvicorn's HTTP protocol with admission control before the parser: at the concurrency limit, a connection's next request waits unparsed.

An admitted request is parsed and served as usual. A rejected request is still parsed, to find where the next one starts, but creates no
ASGI scope or task: its answer is written at the end of its head.
"""

from typing import Any, ClassVar, Final

from anabranch.edge.admission import ADMITTED, Rejections, rejection
from anabranch.guard.concurrency import Gate
from anabranch.server.backlog import Backlog
from anabranch.server.head import BoundedProtocol, as_http1


class AdmissionProtocol(BoundedProtocol):
    """For `uvicorn.Config(http=...)`, made by `with_admission`. `backlog`: holds connections that arrive at the concurrency limit."""

    backlog: ClassVar[Backlog]
    rejections: ClassVar[Rejections]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unread: bytes | None = None
        """Bytes received of the waiting request; None when no request waits."""
        self._is_admitted = False
        self._is_rejected = False
        self._is_ending = False

    # ------------------------------------------------------------------------------------------------------------ waiting

    def data_received(self, data: bytes) -> None:
        if self._unread is not None:
            self._keep(self._unread + data)
            self.backlog.on_more_data(self)
        elif self.backlog.must_wait(data) and self._is_at_rest():
            self._unset_keepalive_if_required()
            self._stop_timer()  # blank lines between requests may have started it
            self._keep(data)
            self.backlog.add(self)
        else:
            super().data_received(data)

    def _keep(self, unread: bytes | None) -> None:
        """Replace the waiting bytes and update the backlog's byte count. None: no request waits any more."""
        self.backlog.unread_bytes += len(unread or b"") - len(self._unread or b"")
        self._unread = unread
        if unread is not None and len(unread) > self.max_head_bytes:
            self.flow.pause_reading()

    def _is_at_rest(self) -> bool:
        """Whether the next bytes begin a request that would be served at once."""
        return self._is_between() and not self._is_refused and not self._is_rejected

    def admit(self) -> bool:
        self._is_admitted = True
        self._read()
        has_used_slot, self._is_admitted = not self._is_admitted, False
        return has_used_slot

    def reject(self) -> None:
        self._is_rejected = True
        self._read()

    def _read(self) -> None:
        data = self._unread
        assert data is not None
        self._keep(None)
        self.flow.resume_reading()
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._unread is not None:
            self._keep(None)
            self.backlog.discard(self)
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """During a drain, a waiting request counts as in flight: it is answered, and then the connection closes. A second call, when no
        time is left, rejects it."""
        if self._unread is None:
            super().shutdown()
        elif not self._is_ending:
            self._is_ending = True
        else:
            self.backlog.discard(self)
            self.reject()

    # ------------------------------------------------------------------------------------------------------------ parsing

    def on_headers_complete(self) -> None:
        if self._is_refused:  # arrived in the same chunk as the refused request; nothing is answered after a refusal
            return
        if self._is_rejected:
            self._is_rejected = False
            self._end_head()
            self._answer_at_limit()
            return
        super().on_headers_complete()
        if self._is_ending:
            self.cycle.keep_alive = False
        if self._is_admitted:
            self._is_admitted = False
            self.scope[ADMITTED] = True  # type: ignore[typeddict-unknown-key]  # its task starts in a later loop iteration

    def _answer_at_limit(self) -> None:
        parser, fields = self.parser, self.server_state.default_headers
        # After `Expect: 100-continue` the client may or may not send the body: where the next request begins is unknown.
        keeps = parser.get_http_version() != "1.0" and parser.should_keep_alive() and not self.expect_100_continue and not self._is_ending
        # Also close during a drain, and when the client keeps sending requests without reading the answers.
        keeps = keeps and not any(name == b"connection" for name, _ in fields) and not self.flow.write_paused
        problem = rejection(self.headers, self.rejections)
        self.transport.write(as_http1(problem, fields, is_head=parser.get_method() == b"HEAD", closes=not keeps))
        self.cycle = _COMPLETED
        if keeps:
            self.on_response_complete()
        else:
            self._is_refused = True
            self._close()


class _CompletedCycle:
    """Stands in for the cycle of an answered request, with the attributes that the protocol reads. Immutable."""

    __slots__ = ()
    response_started = True
    response_complete = True
    more_body = True
    keep_alive = True
    disconnected = False

    @property
    def message_event(self) -> "_CompletedCycle":
        return self

    def set(self) -> None:
        """Does nothing: no task waits for more of the body."""


_COMPLETED: Final[Any] = _CompletedCycle()


def with_admission(protocol: type[BoundedProtocol], gate: Gate, rejections: Rejections) -> type[AdmissionProtocol]:
    """`protocol` with a backlog for `gate` in front of its parser."""
    return type("AdmissionProtocol", (AdmissionProtocol, protocol), {"backlog": Backlog(gate), "rejections": rejections})
