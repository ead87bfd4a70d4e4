"""Starts a whole gateway from a document: the real `assemble`, on a real uvicorn, in the running loop.

The only test module that assembles the parts of the application for a run; specs, integration and chaos tests use it.
"""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

from anabranch.main import Process, assemble
from anabranch.settings import Settings
from anabranch.testing.serving import LOOPBACK, serve


class Gateway:
    """A running gateway. `port`: where it listens on loopback."""

    def __init__(self, port: int) -> None:
        self.port = port

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def client(self) -> httpx.AsyncClient:
        """A client of this gateway, for use as an async context manager in one test."""
        return httpx.AsyncClient(base_url=self.url, timeout=60)


def admin_port_of(process: Process) -> int:
    """Where the admin server of a running gateway listens."""
    assert process.admin is not None
    return process.admin.port


@contextlib.asynccontextmanager
async def running_gateway(document: str, folder: Path, **settings: Any) -> AsyncIterator[Gateway]:
    """Write `document` into `folder`, start a gateway on it, and stop it on leaving.

    `settings`: fields of `anabranch.settings.Settings`; watching the document is off by default. Raises ConfigError when the document is
    unusable.
    """
    path = folder / "gateway.yaml"
    path.write_text(document, "utf-8")
    process = assemble(Settings(document=path, **{"reload": "off", **settings}))
    async with serve(process.app, process.protocol, process.tls) as port:
        yield Gateway(port)
