"""A document that marks every part of its requests and responses with one stamp, and a service that echoes the stamps of a request.

A response that mixes two document versions would contain two stamps. Tests use this to show that a reload never causes that.
"""

from typing import Final

import orjson
from fastapi import APIRouter
from starlette.types import Receive, Scope, Send

from anabranch.edge.python import Fan

DOCUMENT: Final = """\
version: 1
defaults: {{timeout: 30s}}
upstreams:
  one:
    url: "http://127.0.0.1:{port}"
    timeout: 14s
    connect_timeout: 14s
    concurrency: {{limit: 16, queue: 512}}
    headers: {{x-stamp: "{stamp}"}}
  two:
    url: "http://127.0.0.1:{port}"
    timeout: 14s
    connect_timeout: 14s
    concurrency: {{limit: 16, queue: 512}}
    headers: {{x-stamp: "{stamp}"}}
routers: ["tests.support.stamped:router"]
endpoints:
  - path: /document
    steps:
      first: {{upstream: one, path: "/{stamp}", required: true}}
      second: {{upstream: two, path: "/x", query: {{after: "{{first.header}}", stamp: "{stamp}"}}, required: true}}
    response: {{headers: {{x-stamp: "{stamp}"}}}}
"""
BROKEN: Final = (
    "version: 1\nendpoints: [",
    "version: 1\nupstreams: {one: {url: ftp://nowhere}}\n",
    "version: 1\nendpoints: [{path: /document, steps: {s: {upstream: missing, path: /}}}]\n",
    "",
)
"""Unusable documents, each for a different reason."""

router = APIRouter()


@router.get("/python")
async def python(fan: Fan) -> list[str]:
    """Two sequential calls: a reload may happen between them."""
    first = await fan.get("one", "/first")
    second = await fan.get("two", "/second")
    return [first["header"], second["header"]]


async def service(scope: Scope, receive: Receive, send: Send) -> None:
    """Echoes the stamps of the request: in the header, the path and the query."""
    if scope["type"] != "http":
        message = await receive()
        while message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
            message = await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    stamp = next((value.decode() for name, value in scope["headers"] if name == b"x-stamp"), "")
    body = orjson.dumps({"header": stamp, "path": scope["path"], "query": scope["query_string"].decode()})
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())],
        }
    )
    await send({"type": "http.response.body", "body": body})
