"""`anabranch top`: the table, and the messages when there are no figures."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from rich.console import Console

from anabranch.engine.event import ResponseEvent
from anabranch.observe.admin import AdminError
from anabranch.observe.timing import Timings
from anabranch.observe.top import fetch, show_top, table
from tests.support.clock import FakeClock
from tests.support.edge_plans import endpoint, outcome, result

TOKEN = "a token"


def report() -> dict[str, object]:
    timings = Timings(FakeClock())
    observe = timings.observer_of(endpoint(name="thing"))
    timings.observer_of(endpoint(name="idle"))
    made = result(outcome("flight", elapsed_ms=7.5))
    observe(ResponseEvent("thing", "GET", "/x", 200, None, True, 0.0125, made, b"r", None, 9))
    return timings.report()


@pytest.fixture
def server() -> Iterator[str]:
    """An admin server that requires a token."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_known = self.headers["authorization"] == f"Bearer {TOKEN}"
            body = json.dumps(report()).encode()
            self.send_response(200 if is_known and self.path == "/admin/timings" else 401)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the standard library
            pass

    made = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    thread.join()
    made.server_close()


def text(*, is_recent: bool = True) -> str:
    shown = Console(width=120)
    with shown.capture() as captured:
        shown.print(table(report(), is_recent=is_recent))
    return captured.get()


def test_table_has_endpoints_with_their_steps_busiest_first() -> None:
    lines = text().splitlines()
    rows = [line for line in lines if "thing" in line or "flight" in line or "idle" in line]
    assert "thing" in rows[0]
    assert "12.5" in rows[0]
    assert "7.5" in rows[1]
    assert "idle" in rows[2]
    assert "the last 5 to 10 minutes" in lines[0]
    assert "since the start" in text(is_recent=False)


def test_timings_are_fetched_with_the_token(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    show_top(server, TOKEN, is_once=True, is_recent=True, every_s=1)
    assert "thing" in capsys.readouterr().out


@pytest.mark.parametrize("token", [None, "wrong"])
def test_wrong_token_is_reported(server: str, token: str | None) -> None:
    with pytest.raises(AdminError, match="answered 401; set ANABRANCH_ADMIN_TOKEN"):
        fetch(server, token)


@pytest.mark.parametrize(
    ("url", "message"), [("http://127.0.0.1:1", "cannot reach http://127.0.0.1:1"), ("file:///etc/passwd", "is not an HTTP URL")]
)
def test_unreachable_address_is_reported(url: str, message: str) -> None:
    with pytest.raises(AdminError, match=message):
        fetch(url, None)
