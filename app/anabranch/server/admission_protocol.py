"""uvicorn's HTTP protocol with a gate before the parser: while the gate is full, a connection's next request waits as bytes.

What is let in is parsed and served as ever. What is turned away is parsed too, or nobody would know where the next request begins, but no
scope, no task and no application comes into it: the answer is written at the end of its head.
"""

from typing import Any, ClassVar, Final

from anabranch.edge.admission import ADMITTED, Rejections, rejection
from anabranch.guard.concurrency import Gate
from anabranch.server.backlog import Backlog
from anabranch.server.head import BoundedProtocol, as_http1


class AdmissionProtocol(BoundedProtocol):
    """For `uvicorn.Config(http=...)`, by `gated`. `backlog`: where connections wait that find the gate full."""

    backlog: ClassVar[Backlog]
    rejections: ClassVar[Rejections]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unread: bytes | None = None
        """What has come of the request that waits."""
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
            self._stop_timer()  # which line ends may have started
            self._keep(data)
            self.backlog.add(self)
        else:
            super().data_received(data)

    def _keep(self, unread: bytes | None) -> None:
        """`unread` is what waits from now on; None: nothing does."""
        self.backlog.unread_bytes += len(unread or b"") - len(self._unread or b"")
        self._unread = unread
        if unread is not None and len(unread) > self.max_head_bytes:
            self.flow.pause_reading()

    def _is_at_rest(self) -> bool:
        """Whether what comes next is the beginning of a request that would be served at once."""
        return self._is_between() and not self._is_refused and not self._is_rejected

    def admit(self) -> bool:
        self._is_admitted = True
        self._read()
        has_taken, self._is_admitted = not self._is_admitted, False
        return has_taken

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
        """In a drain, a request that waits is one that is under way: it gets its answer, and then the connection closes. Asked again, when
        there is no time left, it is turned away."""
        if self._unread is None:
            super().shutdown()
        elif not self._is_ending:
            self._is_ending = True
        else:
            self.backlog.discard(self)
            self.reject()

    # ------------------------------------------------------------------------------------------------------------ parsing

    def on_headers_complete(self) -> None:
        if self._is_refused:  # it came in one piece with the one that was, and nothing is answered behind that
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
            self.scope[ADMITTED] = True  # type: ignore[typeddict-unknown-key]  # its task begins in a later turn of the loop

    def _answer_at_limit(self) -> None:
        parser, fields = self.parser, self.server_state.default_headers
        # A client that waits for leave to send its body will not send it now: where the next request would begin is not known.
        keeps = parser.get_http_version() != "1.0" and parser.should_keep_alive() and not self.expect_100_continue and not self._is_ending
        # Nor do we go on with one that asks and asks and does not read our answers.
        keeps = keeps and not any(name == b"connection" for name, _ in fields) and not self.flow.write_paused
        problem = rejection(self.headers, self.rejections)
        self.transport.write(as_http1(problem, fields, is_head=parser.get_method() == b"HEAD", closes=not keeps))
        self.cycle = _ANSWERED
        if keeps:
            self.on_response_complete()
        else:
            self._is_refused = True
            self._close()


class _Answered:
    """Stands for the cycle of a request that has its answer, as far as the protocol looks at one. Nothing of it changes."""

    __slots__ = ()
    response_started = True
    response_complete = True
    more_body = True
    keep_alive = True
    disconnected = False

    @property
    def message_event(self) -> "_Answered":
        return self

    def set(self) -> None:
        """Nobody waits for more of its body."""


_ANSWERED: Final[Any] = _Answered()


def with_admission(protocol: type[BoundedProtocol], gate: Gate, rejections: Rejections) -> type[AdmissionProtocol]:
    """The protocol, with a backlog before `gate` in front of its parser."""
    return type("AdmissionProtocol", (AdmissionProtocol, protocol), {"backlog": Backlog(gate), "rejections": rejections})
