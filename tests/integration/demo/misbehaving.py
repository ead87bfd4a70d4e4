"""A program for the tests of the supervisor: `python -m tests.integration.demo.misbehaving HOW PORT`.

`exits`: prints a reason and exits with 7. `hangs`: never listens. `ignores`: serves requests and ignores SIGTERM.
"""

import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer


class Ready(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def main(how: str, port: int) -> None:
    if how == "exits":
        sys.stderr.write("the coffee is cold\n")
        raise SystemExit(7)
    if how == "hangs":
        sys.stderr.write("thinking\n")
        time.sleep(60)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    HTTPServer(("127.0.0.1", port), Ready).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
