"""The log: one stream of lines on stderr, as JSON or human-readable. structlog renders all of it, including the records of stdlib and
uvicorn.

Line ends cannot be injected: JSON escapes them, and the console format escapes control characters in the message and in every value.
Secrets of the document are removed before rendering. Bodies are never logged.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator, MutableMapping
from functools import partial
from typing import Any, Final, Literal

import orjson
import structlog

from anabranch.config.secrets import Secrets, hidden, spellings
from anabranch.core.metric import Sample, metric
from anabranch.observe.sink import LineSink

Format = Literal["auto", "json", "console"]
Event = MutableMapping[str, Any]

_TIME: Final = structlog.processors.TimeStamper(fmt="iso", utc=True, key="time")
_CONTROL: Final = {code: f"\\x{code:02x}" for code in (*range(0x20), 0x7F, *range(0x80, 0xA0))} | {
    0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t", 0x2028: "\\u2028", 0x2029: "\\u2029",
}  # fmt: skip


LOG_LINES_LOST: Final = metric(
    "counter", "log_lines_lost", "", "Log lines that could not be written because the reader has gone or the disk is full."
)

_FIRST: Final = ("time", "level", "event")


class Logs:
    """The stream and its format. `sink`: where it goes. `worker`: the number of this process, which every line carries; None where there is only
    one.

    Changes no global state before `install`.
    """

    def __init__(
        self,
        form: Format = "auto",
        *,
        level: str = "info",
        sink: LineSink | None = None,
        is_terminal: bool | None = None,
        worker: int | None = None,
    ) -> None:
        self.sink = sink or LineSink()
        self._hidden: list[Secrets] = []
        self._spellings: list[str] = []
        self._level = level.upper()
        if is_terminal is None:
            is_terminal = os.isatty(2)
        self.is_json = form == "json" or (form == "auto" and not is_terminal)
        self._render: _Json | _Console = _Json() if self.is_json else _Console(has_colours=is_terminal)
        self._added: list[structlog.typing.Processor] = [structlog.processors.add_log_level, _TIME]
        if worker is not None:
            self._added.append(partial(_with_worker, worker))
        lines = _Lines(self.sink)
        self.events: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(lines, processors=[*self._added, self._render])
        """For events that are not stdlib records, such as requests: `events.info("request", status=200)`. Neither filtered by level nor
        redacted: values from the document must not be put there."""

    def hide(self, secrets: Secrets) -> Callable[[], None]:
        """Remove these secrets, too, from every line from now on, until the function that this returns is called. The last ones stay hidden until
        there are others: a process also logs while it ends."""
        self._hidden.append(secrets)
        self._spellings = spellings(*self._hidden)
        return partial(self._show, secrets)

    def _show(self, secrets: Secrets) -> None:
        self._hidden.remove(secrets)
        if self._hidden:
            self._spellings = spellings(*self._hidden)

    def redact(self, text: str) -> str:
        """`text` without the secrets that are hidden at present."""
        return hidden(text, self._spellings)

    def samples(self) -> Iterator[Sample]:
        """See `core.metric.Sampled`."""
        yield Sample(LOG_LINES_LOST, (), self.sink.lost)

    def install(self) -> None:
        """Send the records of stdlib loggers to this stream, and remove the root logger's other handlers."""
        formatter = structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *self._added],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                self._without_secrets,
                self._render_text,
            ],
        )
        handler = _Bridge(self.sink)
        handler.setFormatter(formatter)
        root = logging.getLogger()
        root.handlers[:] = [handler]
        root.setLevel(self._level)
        logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it logs every file that changes near the document
        logging.captureWarnings(capture=True)

    def _render_text(self, logger: Any, method: str, event: Event) -> str:
        """Render as text: stdlib formatters cannot return bytes."""
        return self._render(logger, method, event).decode("utf-8", "backslashreplace")

    def _without_secrets(self, logger: Any, method: str, event: Event) -> Event:
        for key, value in event.items():
            if isinstance(value, str):
                event[key] = self.redact(value)
        return event


class _Json:
    """One JSON object a line."""

    def __call__(self, logger: Any, method: str, event: Event) -> bytes:
        ordered = {key: event.pop(key) for key in _FIRST if key in event}
        ordered.update(event)
        try:
            return orjson.dumps(ordered, default=str)
        except TypeError:
            # Text that is not valid Unicode, such as a file name with a stray byte; orjson rejects it.
            return json.dumps(ordered, default=str).encode()


class _Console:
    """Time, level, logger, message, then the rest as key=value. A traceback follows on lines of its own."""

    def __init__(self, *, has_colours: bool) -> None:
        self._render = structlog.dev.ConsoleRenderer(
            colors=has_colours, timestamp_key="time", pad_event_to=0, repr_native_str=False, sort_keys=False
        )

    def __call__(self, logger: Any, method: str, event: Event) -> bytes:
        traceback = event.pop("exception", None)
        printable = {key: _printable(value) for key, value in event.items()}
        text = str(self._render(logger, method, printable))
        if traceback:
            text += f"\n{traceback}"
        return text.encode("utf-8", "backslashreplace")


class _Lines:
    """The logger that structlog calls last. Its methods, one for each level, are all the same."""

    __slots__ = ("critical", "debug", "error", "info", "warning")

    def __init__(self, sink: LineSink) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = sink.write


class _Bridge(logging.Handler):
    """Writes stdlib records to the sink."""

    def __init__(self, sink: LineSink) -> None:
        super().__init__()
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - a record with wrong arguments must not fail a request
            line = f"a log record of {record.name} could not be formatted: {record.msg!r}".translate(_CONTROL)
        self._sink.write(line.encode("utf-8", "backslashreplace"))


def _printable(value: Any) -> Any:
    """The value without control characters."""
    if isinstance(value, str):
        return value.translate(_CONTROL)
    return value if isinstance(value, int | float | bool | None) else str(value).translate(_CONTROL)


def _with_worker(worker: int, logger: Any, method: str, event: Event) -> Event:
    event["worker"] = worker
    return event
