"""Starts a whole gateway from a document: the real `create_app`, on the server of `anabranch run`, in the running loop.

The one module of the tests that knows how the parts of `app` are put together for a run; specs, integration and chaos tests use it.
"""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

from anabranch.main import create_app
from anabranch.settings import Settings
from anabranch.testing.serving import LOOPBACK, serve


class Gateway:
    """A gateway that runs. `port`: where it listens on loopback."""

    def __init__(self, port: int) -> None:
        self.port = port

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def client(self) -> httpx.AsyncClient:
        """A client of this gateway, to be used as an async context manager in one test."""
        return httpx.AsyncClient(base_url=self.url, timeout=60)


@contextlib.asynccontextmanager
async def running_gateway(document: str, folder: Path, **settings: Any) -> AsyncIterator[Gateway]:
    """Write `document` into `folder`, start a gateway on it, and stop it on leaving.

    `settings`: fields of `anabranch.settings.Settings`; the document is not watched unless they say so. Raises ConfigError when the document is not usable.
    """
    path = folder / "gateway.yaml"
    path.write_text(document, "utf-8")
    app = create_app(Settings(document=path, **{"reload": "off", **settings}))
    async with serve(app, app.state.protocol) as port:
        yield Gateway(port)
