"""What the server uses of uvicorn beside its documented interface. A version that changes it fails here, and not in production.

The upper bound in pyproject.toml is raised together with a run of this file.
"""

import inspect
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from anabranch.server.http1.connection import BoundedProtocol
from anabranch.server.server import Server


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    raise NotImplementedError


@pytest.fixture
def config() -> uvicorn.Config:
    return uvicorn.Config(
        app, http=BoundedProtocol, ws="none", lifespan="on", log_config=None, timeout_keep_alive=7, timeout_graceful_shutdown=3
    )


def test_config_has_what_a_protocol_reads(config: uvicorn.Config) -> None:
    config.load()
    assert config.loaded
    assert callable(config.loaded_app)
    assert (config.timeout_keep_alive, config.timeout_graceful_shutdown) == (7, 3)
    assert (config.http_protocol_class, config.ws_protocol_class) == (BoundedProtocol, None)


def test_websocket_protocol_is_made_as_ours_is() -> None:
    config = uvicorn.Config(app, ws="websockets-sansio", log_config=None)
    config.load()
    protocol: Any = config.ws_protocol_class
    assert list(inspect.signature(protocol).parameters)[:3] == ["config", "server_state", "app_state"]
    assert list(inspect.signature(BoundedProtocol).parameters)[:3] == ["config", "server_state", "app_state"]
    assert {"connection_made", "data_received", "connection_lost", "shutdown"} <= set(dir(protocol))


def test_server_state_has_what_a_protocol_keeps_up() -> None:
    state = ServerState()
    assert (state.connections, state.tasks, state.total_requests, state.default_headers) == (set(), set(), 0, [])


def test_server_has_the_stages_that_ours_replaces(config: uvicorn.Config) -> None:
    server = Server(config)
    assert (server.should_exit, server.force_exit, server.server_state.connections) == (False, False, set())
    for name in ("startup", "main_loop", "on_tick", "shutdown"):
        assert inspect.iscoroutinefunction(getattr(uvicorn.Server, name)), name
    assert list(inspect.signature(uvicorn.Server.startup).parameters) == ["self", "sockets"]
    assert list(inspect.signature(uvicorn.Server.shutdown).parameters) == ["self", "sockets"]
    assert list(inspect.signature(uvicorn.Server.on_tick).parameters) == ["self", "counter"]
    assert {"capture_signals", "serve", "run"} <= set(dir(uvicorn.Server))


async def test_lifespan_has_a_state_and_can_be_shut_down(config: uvicorn.Config) -> None:
    config.load()
    lifespan: Any = config.lifespan_class(config)
    assert lifespan.state == {}
    assert inspect.iscoroutinefunction(lifespan.shutdown)


async def test_tick_renews_the_date_that_every_response_has(config: uvicorn.Config) -> None:
    config.load()
    server = Server(config)
    await server.on_tick(0)
    assert [name for name, _ in server.server_state.default_headers] == [b"date", b"server"]
