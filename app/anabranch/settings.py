"""Settings of the process, from the environment (`ANABRANCH_*`) and an optional `.env` file. What the gateway does is in the document."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class Settings(BaseSettings):
    """Every setting with its default. `.env.example` lists them all; a test fails when it does not."""

    model_config = SettingsConfigDict(env_prefix="ANABRANCH_", env_file=".env", extra="ignore", use_attribute_docstrings=True)

    document: Path | None = None
    """The gateway document: a file or a folder of files. `anabranch run FILE` sets it."""
    host: str = "127.0.0.1"
    """Address to listen on. In a container 0.0.0.0."""
    port: int = Field(8080, ge=0, le=65535)
    """Port to listen on. 0: a free one."""
    workers: int = Field(1, ge=1, le=256)
    """Processes that serve. Limits, breakers, journals and metrics are each worker's own; worker n has its admin server at `admin_port` + n."""
    docs: bool = True
    """Serve /docs, /redoc and /openapi.json."""
    allow_explain: bool = False
    """Answer `?_explain=true` with the plan, outcomes and timings instead of the response. It shows how the gateway is built inside."""
    journal_path: Path | None = None
    """Folder of the journal. Wins over the document's `journal.path`; without either it is `journal` in the working directory."""
    from_journal: Path | None = None
    """Folder of a journal that stands for all upstreams. Nothing is called and nothing is recorded; `anabranch run --from-journal DIR` sets it."""
    reload: Literal["off", "signal", "watch"] = "watch"
    """When the document is read again: `watch` (when its files change, and at SIGHUP), `signal` (at SIGHUP), `off` (never by itself)."""
    keep_alive_s: float = Field(75.0, ge=0, le=3600)
    """How long a client's connection may stay open without a request, in seconds. Longer than that of a load balancer in front."""
    max_requests: int = Field(0, ge=0)
    """Requests under way at once, of all endpoints together. 0: no limit. One worker has this many, not all workers together."""
    max_waiting: int = Field(256, ge=0)
    """Requests that may wait beyond `max_requests`; one more is answered 503 at once. 0: nobody waits."""
    max_wait_s: float = Field(0.25, gt=0, le=60)
    """Longest such wait, in seconds; then the answer is 503."""
    drain_delay_s: float = Field(0.0, ge=0, le=3600)
    """How long new connections are still served after SIGTERM, in seconds: until load balancers have heard that /readyz says no."""
    shutdown_timeout_s: float = Field(10.0, ge=0, le=3600)
    """How long running requests may take to end after SIGTERM, in seconds. 0: they are cancelled at once."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least important log messages that are written."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """How log lines look: `json`, `console` for the eye, or `auto`: console on a terminal and JSON elsewhere."""
    access_log: Literal["off", "errors", "all"] | Annotated[float, Field(ge=0, le=1)] = "errors"
    """Which requests are logged: `off`, `errors` (500 and more, and incomplete answers), `all`, or errors and this share of the rest (0 to 1)."""
    metrics: bool = True
    """Count, and serve /metrics for Prometheus."""
    admin_port: int | None = Field(None, ge=0, le=65535)
    """Port of the admin server. /metrics moves there, and /admin/* is served there only; without it there is no /admin."""
    admin_host: str = "127.0.0.1"
    """Address that the admin server listens on."""
    admin_token_file: Path | None = None
    """File that holds the admin server's bearer token, such as a mounted secret. It is read at the start and wins over the next setting."""
    admin_token: SecretStr | None = Field(None, min_length=8, validate_default=True)
    """Bearer token that the admin server asks for, except for /livez and /readyz. Unset: it asks for none."""
    tracing: bool = False
    """Make OpenTelemetry spans and send them to OTEL_EXPORTER_OTLP_ENDPOINT. Needs the extra `otel`."""
    trace_ratio: float = Field(1.0, ge=0, le=1)
    """Share of requests that are traced when they come without a trace of their own; else the caller's decision is followed."""
    hook_stall_s: float = Field(0.05, gt=0, le=60)
    """An async hook that holds the event loop for longer than so many seconds is logged with its name."""
    ready_upstreams: Annotated[tuple[str, ...], NoDecode] = ()
    """Upstreams that /readyz asks about: not ready while every address of one of them has its breaker open. Names with commas between."""

    @field_validator("ready_upstreams", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

    @field_validator("admin_token", mode="before")
    @classmethod
    def _read_token(cls, value: object, info: ValidationInfo) -> object:
        file = info.data.get("admin_token_file")
        if file is None:
            return value
        try:
            return file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise ValueError(f"ANABRANCH_ADMIN_TOKEN_FILE names {file}, which cannot be read as text") from None
