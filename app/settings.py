"""Settings of the process, from the environment (`ANABRANCH_*`) and an optional `.env` file. What the gateway does is in the document."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Every setting with its default. `.env.example` lists them all; a test fails when it does not."""

    model_config = SettingsConfigDict(env_prefix="ANABRANCH_", env_file=".env", extra="ignore", use_attribute_docstrings=True)

    document: Path | None = None
    """The gateway document: a file or a folder of files. `anabranch run FILE` sets it."""
    host: str = "127.0.0.1"
    """Address to listen on. In a container 0.0.0.0."""
    port: int = Field(8080, ge=0, le=65535)
    """Port to listen on. 0: a free one."""
    docs: bool = True
    """Serve /docs, /redoc and /openapi.json."""
    allow_explain: bool = False
    """Answer `?_explain=true` with the plan, outcomes and timings instead of the response. It shows how the gateway is built inside."""
    reload: Literal["off", "signal", "watch"] = "watch"
    """When the document is read again: `watch` (when its files change, and at SIGHUP), `signal` (at SIGHUP), `off` (never by itself)."""
    keep_alive_s: float = Field(75.0, ge=0, le=3600)
    """How long a client's connection may stay open without a request, in seconds. Longer than that of a load balancer in front."""
    drain_delay_s: float = Field(0.0, ge=0, le=3600)
    """How long new connections are still served after SIGTERM, in seconds: until load balancers have heard that /readyz says no."""
    shutdown_timeout_s: float = Field(10.0, ge=0, le=3600)
    """How long running requests may take to end after SIGTERM, in seconds. 0: they are cancelled at once."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least important log messages that are written."""
