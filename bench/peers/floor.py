"""The floor: the cost of uvicorn with an ASGI application that does nothing."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

Message = dict[str, Any]

BODY: Final = b"{}"
_START: Final[Message] = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"2")],
}
_BODY: Final[Message] = {"type": "http.response.body", "body": BODY}


async def app(scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]) -> None:
    """Answer every request with an empty object. Raise for the lifespan, like an application without one."""
    if scope["type"] != "http":
        raise ValueError("only http")
    await send(_START)
    await send(_BODY)
