"""Calls an ASGI application directly: builds scopes, plays the client (sends, waits, disconnects) and collects the response."""

import asyncio
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Scope


def http_scope(
    method: str = "GET", target: str | bytes = "/", *, headers: Iterable[tuple[bytes, bytes]] = (), root_path: str = ""
) -> Scope:
    """The scope that uvicorn builds from this request line."""
    raw = target.encode("latin-1") if isinstance(target, str) else target
    path, _, query = raw.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path.decode("latin-1"),
        "raw_path": root_path.encode() + path,
        "query_string": query,
        "root_path": root_path,
        "headers": list(headers),
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }


class Client:
    """The client's side of one request. `chunks`: its body. `leave()`: disconnect. `sent`: the messages that the application sent to it."""

    def __init__(self, *chunks: bytes) -> None:
        self._messages: list[Message] = [
            {"type": "http.request", "body": chunk, "more_body": index < len(chunks) - 1} for index, chunk in enumerate(chunks)
        ] or [{"type": "http.request", "body": b"", "more_body": False}]
        self._gone = asyncio.Event()
        self.sent: list[Message] = []
        self.received = 0

    def leave(self) -> None:
        self._gone.set()

    async def receive(self) -> Message:
        self.received += 1
        if self._messages:
            return self._messages.pop(0)
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        pairs = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in self.sent[0]["headers"]]
        assert len({name for name, _ in pairs}) == len(pairs), f"a header field occurs twice in {pairs}"
        return dict(pairs)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])


async def ask(app: ASGIApp, method: str, target: str | bytes, *, headers: dict[str, str] | None = None, body: bytes = b"") -> Client:
    """Send one complete request and return its client."""
    pairs = [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    client = Client(body)
    await app(http_scope(method, target, headers=pairs), client.receive, client.send)
    return client


async def ticks(count: int = 10) -> None:
    """Yield to the event loop `count` times."""
    for _ in range(count):
        await asyncio.sleep(0)
