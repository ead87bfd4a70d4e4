"""The log's lines: one event each, whatever it contains."""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anabranch.config.secrets import Secrets
from anabranch.engine.event import ResponseEvent
from anabranch.errors import BreakerOpen, UpstreamStatus
from anabranch.observe.access import AccessLog, Choice
from anabranch.observe.logs import Format, Logs
from anabranch.observe.sink import LineSink
from tests.support.edge_plans import outcome, result

TRACEPARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Stream:
    """A log that is written to a file. `lines()`: its content."""

    def __init__(self, path: Path, form: Format) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)
        self.logs = Logs(form, sink=LineSink(self._descriptor), is_terminal=False)

    def lines(self) -> list[str]:
        return self._path.read_text("utf-8").splitlines()

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._path.read_bytes().split(b"\n") if line]

    def close(self) -> None:
        os.close(self._descriptor)


@pytest.fixture
def stream(tmp_path: Path) -> Iterator[Stream]:
    made = Stream(tmp_path / "log", "json")
    yield made
    made.close()


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Stream]:
    made = Stream(tmp_path / "log", "console")
    yield made
    made.close()


@pytest.fixture
def _unchanged_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def event(status: int = 200, *, path: str = "/a", failed: bool = False, traceparent: bytes | None = None) -> ResponseEvent:
    failure = UpstreamStatus(503) if failed else None
    made = result(outcome("flight", failure=failure, elapsed_ms=12.3, attempts=3 if failed else 1), outcome("weather"))
    made.outcomes[0].queue_s = 0.004
    made.outcomes[0].status = 503 if failed else 200
    return ResponseEvent("get_a", "GET", path, status, None, not failed, 0.02, made, b"r-1", traceparent, 99)


def told(stream: Stream, choice: Choice, *events: ResponseEvent) -> list[dict[str, Any]]:
    observe = AccessLog(stream.logs.events, choice).observer_of(None)
    for one in events:
        observe(one)
    return stream.events()


def test_request_is_logged_as_one_event_with_its_steps(stream: Stream) -> None:
    (shown,) = told(stream, "all", event(failed=True, traceparent=TRACEPARENT))
    assert list(shown)[:3] == ["time", "level", "event"]
    shown.pop("time")
    assert shown == {
        "level": "warning", "event": "request", "endpoint": "get_a", "method": "GET", "path": "/a", "status": 200, "complete": False,
        "elapsed_ms": 20.0, "queue_ms": 4.0, "sent_bytes": 99, "request_id": "r-1", "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "steps": [
            {"step": "flight", "reason": "upstream_status", "elapsed_ms": 12.3, "queue_ms": 4.0, "attempts": 3, "status": 503},
            {"step": "weather", "reason": "ok", "elapsed_ms": 1.0},
        ],
    }  # fmt: skip


def test_step_of_which_elements_failed_is_not_ok(stream: Stream) -> None:
    failed = event(failed=True)
    assert failed.result is not None
    weather = failed.result.outcomes[1]
    weather.item_count, weather.item_failures = 3, [BreakerOpen("open")] * 2
    (shown,) = told(stream, "all", failed)
    assert shown["steps"][1] == {"step": "weather", "reason": "breaker_open", "elapsed_ms": 1.0, "elements": "2 of 3 failed"}


@pytest.mark.parametrize(
    ("choice", "levels"),
    [("errors", ["warning", "error"]), ("all", ["info", "info", "warning", "error"]), (0.0, ["warning", "error"]), (1.0, ["info"] * 2 + ["warning", "error"])],
)  # fmt: skip
def test_failed_requests_are_always_logged(stream: Stream, choice: Choice, levels: list[str]) -> None:
    shown = told(stream, choice, event(), event(404), event(failed=True), event(502))
    assert [one["level"] for one in shown] == levels


def test_healthy_requests_are_sampled_evenly(stream: Stream) -> None:
    shown = told(stream, 0.25, *(event(path=f"/{number}") for number in range(12)))
    assert [one["path"] for one in shown] == ["/3", "/7", "/11"]


@pytest.mark.parametrize("path", ["/a\nb", "/a\r\n{}", "/\x1b[31m", "/\u2028x", "/\x85x"])
def test_no_path_can_inject_a_second_line(stream: Stream, console: Stream, path: str) -> None:
    (shown,) = told(stream, "all", event(path=path))
    assert shown["path"] == path


@pytest.mark.parametrize("path", ["/a\nb", "/a\r\nb", "/\x1b[31m", "/\u2028x", "/\x85x", "/\x00"])
def test_console_escapes_control_characters(console: Stream, path: str) -> None:
    AccessLog(console.logs.events, "all")(event(path=path))
    (line,) = console.lines()
    assert line.isprintable()
    assert "request" in line
    assert "endpoint=get_a" in line


def test_long_path_is_truncated(stream: Stream) -> None:
    (shown,) = told(stream, "all", event(path="/" + "x" * 5000))
    assert len(shown["path"]) == 1024


@pytest.mark.usefixtures("_unchanged_logging")
def test_standard_library_records_are_in_the_same_stream(stream: Stream) -> None:
    stream.logs.install()
    logging.getLogger("uvicorn.error").warning("two\nlines %s", "here")
    stream.logs.events.info("request", status=200)
    first, second = stream.events()
    assert (first["event"], first["logger"], first["level"]) == ("two\nlines here", "uvicorn.error", "warning")
    assert second["event"] == "request"


@pytest.mark.usefixtures("_unchanged_logging")
def test_traceback_is_part_of_its_event(stream: Stream) -> None:
    stream.logs.install()
    try:
        raise RuntimeError("hard luck")
    except RuntimeError:
        logging.getLogger("anabranch").exception("it failed")
    (shown,) = stream.events()
    assert shown["event"] == "it failed"
    assert shown["exception"].endswith("RuntimeError: hard luck")


@pytest.mark.usefixtures("_unchanged_logging")
@pytest.mark.parametrize("form", ["json", "console"])
def test_secrets_are_masked_anywhere_in_an_event(tmp_path: Path, form: Format) -> None:
    stream = Stream(tmp_path / "log", form)
    stream.logs.hide(Secrets(set(), {"s3cret"}))
    stream.logs.install()
    secret = "s3" + "cret"
    try:
        raise RuntimeError(secret)
    except RuntimeError:
        logging.getLogger("anabranch").exception("with %s", secret)
    stream.close()
    text = "\n".join(stream.lines())
    assert "s3cret" not in text
    assert text.count("***") == 2


@pytest.mark.usefixtures("_unchanged_logging")
def test_secrets_of_a_replaced_document_are_masked_until_it_has_retired(stream: Stream) -> None:
    stream.logs.install()
    show_old = stream.logs.hide(Secrets(set(), {"old-token"}))
    show_new = stream.logs.hide(Secrets(set(), {"new-token", "new-token-2"}))
    log = logging.getLogger("anabranch")
    log.info("both: old-token new-token new-token-2")
    show_old()
    log.info("one: old-token new-token")
    show_new()
    log.info("at the end: new-token")
    stream.logs.hide(Secrets(set(), {"next-token"}))
    log.info("another: next-token")
    assert [event["event"] for event in stream.events()] == ["both: *** *** ***", "one: old-token ***", "at the end: ***", "another: ***"]


@pytest.mark.usefixtures("_unchanged_logging")
def test_record_that_cannot_be_formatted_is_reported(stream: Stream) -> None:
    stream.logs.install()
    logging.getLogger("anabranch").info("%d", "no number")
    assert b"could not be formatted" in stream._path.read_bytes()


@pytest.mark.usefixtures("_unchanged_logging")
def test_file_name_that_is_not_utf8_can_be_logged(stream: Stream) -> None:
    stream.logs.install()
    logging.getLogger("anabranch").info("file %s", os.fsdecode(b"\xff"))
    (shown,) = stream.events()
    assert shown["event"] == "file \udcff"


def test_closed_log_pipe_loses_lines_and_nothing_else() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    sink = LineSink(writing)
    sink.write(b"x")
    sink.write(b"y")
    os.close(writing)
    assert sink.lost == 2


def test_log_format_depends_on_the_terminal_when_not_set() -> None:
    assert Logs("auto", is_terminal=False).is_json
    assert not Logs("auto", is_terminal=True).is_json
    assert Logs("json", is_terminal=True).is_json
