"""How uvicorn is set up for the gateway's public port: in production, and wherever else the gateway is served over sockets."""

import uvicorn
from starlette.types import ASGIApp

from anabranch.server.http1.connection import BoundedProtocol
from anabranch.server.tls import ServerTLS


def server_config(
    app: ASGIApp,
    *,
    protocol: type[BoundedProtocol] = BoundedProtocol,
    keep_alive_s: float = 75.0,
    shutdown_timeout_s: float = 10.0,
    tls: ServerTLS | None = None,
) -> uvicorn.Config:
    """`protocol`: the HTTP protocol class. `keep_alive_s`: how long a connection may stay idle. `shutdown_timeout_s`: how long running requests
    may take to end. `tls`: None: plain HTTP."""
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        date_header=True,
        ssl_context_factory=None if tls is None else lambda _config, _default: tls.context,
        timeout_keep_alive=keep_alive_s,  # type: ignore[arg-type]  # both are passed to asyncio unchanged
        timeout_graceful_shutdown=shutdown_timeout_s,  # type: ignore[arg-type]
    )
