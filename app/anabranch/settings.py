"""Settings of the process, from the environment (`ANABRANCH_*`) and an optional `.env` file. The document defines everything else."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import ByteSize, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from anabranch.core.environment import DOTENV
from anabranch.core.forwarding import TrustedProxies
from anabranch.errors import ConfigError, Problem

PREFIX: Final = "ANABRANCH_"
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?")


class Settings(BaseSettings):
    """Every setting with its default. `.env.example` lists all of them; a test checks that. An empty variable is one that is not set."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_file=DOTENV, env_ignore_empty=True, extra="ignore")

    document: Path | None = None
    """The gateway document: a file or a folder of files. `anabranch run FILE` sets it."""
    host: str = "127.0.0.1"
    """Address to listen on. In a container 0.0.0.0."""
    port: int = Field(8080, ge=0, le=65535)
    """Port to listen on. 0: a free one."""
    workers: int = Field(1, ge=1, le=256)
    """Worker processes. Each has its own limits, breakers, journal and metrics, and worker n its admin server at `admin_port` + n."""
    docs: bool = True
    """Serve /docs, /redoc and /openapi.json."""
    allow_explain: bool = False
    """Answer `?_explain=true` with the plan, outcomes and timings instead of the response. This shows clients the gateway's internals."""
    journal_path: Path | None = None
    """Folder of the journal. Overrides the document's `journal.path`; if neither is set, `journal` in the working directory."""
    journal_keep_size: ByteSize | None = Field(None, ge=1)
    """Largest total size of the journal's closed segments, such as 700MiB: what the disk allows. The document's `keep_size` can only be smaller."""
    from_journal: Path | None = None
    """Folder of a journal that answers in place of all upstreams, which are not called. Nothing is recorded.
    `anabranch run --from-journal DIR` sets it."""
    reload: Literal["off", "signal", "watch"] = "watch"
    """When to reload the document: `watch` (file changes, SIGHUP), `signal` (SIGHUP), `off` (only on `POST /admin/reload`)."""
    keep_alive_s: float = Field(75.0, ge=0, le=3600)
    """How long a client's connection may stay idle, in seconds. Set it longer than the idle timeout of a load balancer in front."""
    tls_cert_file: Path | None = None
    """Certificate chain of the gateway in PEM; the public port speaks TLS then (1.2 or newer). A renewed file is taken up within seconds. Unset: plain HTTP. The admin server is always plain."""
    tls_key_file: Path | None = None
    """Key of the certificate in PEM. Unset: it is in the same file."""
    tls_key_password: SecretStr | None = None
    """Password of the key."""
    tls_client_cert: Literal["none", "optional", "required"] = "none"
    """Certificates of clients (mutual TLS): `none`: not asked for, `optional`: verified if a client has one, `required`: connections without one are refused, also those of probes."""
    tls_client_ca_file: Path | None = None
    """Authorities whose client certificates are accepted, in PEM."""
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = ()
    """Proxies in front of the gateway, separated by commas: addresses, networks such as 10.0.0.0/8, and `unix` for Unix sockets. They are believed
    in `X-Forwarded-*` and `Forwarded`; what other clients send in these fields is never passed on."""
    max_requests: int = Field(0, ge=0)
    """Maximum concurrent requests, all endpoints together. 0: no limit. The limit applies to each worker."""
    max_waiting: int = Field(256, ge=0)
    """Maximum requests that wait for a slot when `max_requests` is reached; further ones are answered 503. 0: no request waits."""
    max_wait_s: float = Field(0.25, gt=0, le=60)
    """Longest such wait, in seconds; after that the answer is 503."""
    drain_delay_s: float = Field(0.0, ge=0, le=3600)
    """How long new connections are still served after SIGTERM, in seconds: the time load balancers need to notice that /readyz fails."""
    shutdown_timeout_s: float = Field(10.0, ge=0, le=3600)
    """How long running requests may take to end after that, in seconds. 0: they are cancelled at once."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level of log messages that are written."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """Format of log lines: `json`, `console` (human-readable), or `auto`: console on a terminal and JSON elsewhere."""
    access_log: Literal["off", "errors", "all"] | Annotated[float, Field(ge=0, le=1)] = "errors"
    """Requests to log: `off`, `errors` (status 500 and above, incomplete answers), `all`, or a number: errors and this share (0 to 1) of others."""
    metrics: bool = True
    """Collect metrics, and serve them at /metrics for Prometheus."""
    admin_port: int | None = Field(None, ge=0, le=65535)
    """Port of the admin server. /metrics moves there, and /admin/* is only served there. Unset: no admin server and no /admin."""
    admin_host: str = "127.0.0.1"
    """Address that the admin server listens on."""
    admin_token_file: Path | None = None
    """File that contains the admin server's bearer token, such as a mounted secret. Read at startup; overrides the next setting."""
    admin_token: SecretStr | None = Field(None, min_length=8, validate_default=True)
    """Bearer token that the admin server requires, except for /livez and /readyz. Unset: no token is required."""
    admin_names: Annotated[tuple[str, ...], NoDecode] = ()
    """Names, separated by commas, by which the admin server may be called without a token. Loopback names and its own address are always known."""
    tracing: bool = False
    """Create OpenTelemetry spans and send them to OTEL_EXPORTER_OTLP_ENDPOINT. Needs the extra `otel`."""
    trace_ratio: float = Field(1.0, ge=0, le=1)
    """Share (0 to 1) of requests without a trace context that are traced; otherwise the caller's sampling decision applies."""
    hook_stall_s: float = Field(0.05, gt=0, le=60)
    """An async hook that blocks the event loop for longer than this many seconds is logged with its name."""
    ready_upstreams: Annotated[tuple[str, ...], NoDecode] = ()
    """Upstreams that /readyz depends on, separated by commas: not ready while one of them has the breakers of all its addresses open."""

    @field_validator("ready_upstreams", "admin_names", "trusted_proxies", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

    @field_validator("admin_names")
    @classmethod
    def _check_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if _HOST_NAME.fullmatch(name) is None:
                raise ValueError(f"{name!r} is not a host name; write it without scheme, port, path and wildcards")
        return tuple(name.lower().removesuffix(".") for name in value)

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        TrustedProxies(value)
        return value

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


def wrong_setting(name: str, message: str, hint: str = "") -> ConfigError:
    """The error for one setting. `name`: of the variable, without the prefix."""
    return ConfigError([Problem(file="settings", line=0, column=0, path=f"ANABRANCH_{name}", message=message, hint=hint)])


def unknown_settings(environ: Mapping[str, str]) -> list[Problem]:
    """A warning for each variable that looks like a setting and is none. Not an error: a Kubernetes Service called `anabranch` sets such variables,
    a document may use them, and an older version must start with the settings of a newer one."""
    known = [name.upper() for name in Settings.model_fields]
    warnings = []
    for name in sorted(name for name in environ if name.upper().startswith(PREFIX)):
        own = name.upper().removeprefix(PREFIX)
        if own in known:
            continue
        close = get_close_matches(own, known, n=1)
        hint = f"did you mean {PREFIX}{close[0]}?" if close else ".env.example lists all settings"
        message = "there is no such setting, so it has no effect"
        warnings.append(Problem(file="settings", line=0, column=0, path=name, message=message, hint=hint, is_warning=True))
    return warnings


def read_settings(**given: object) -> Settings:
    """The settings from the environment, except for those that are given and not None. Raises ConfigError."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        problems = []
        for fault in error.errors(include_url=False, include_input=False):
            name = "_".join(str(part) for part in fault["loc"]).upper()
            problems += wrong_setting(name, f"{fault['msg'][:1].lower()}{fault['msg'][1:]}").problems
        raise ConfigError(problems) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError([Problem(file=".env", line=0, column=0, path="", message=f"the file cannot be read: {reason}")]) from None


def document_of(settings: Settings) -> Path:
    """The gateway document. Raises ConfigError when none is set."""
    if settings.document is None:
        raise wrong_setting(
            "DOCUMENT", "no gateway document is given", "run `anabranch run FILE`, or set ANABRANCH_DOCUMENT to a file or folder"
        )
    return settings.document
