"""The gateway under test: assembled as in production, with the settings of the test alone, and with its log in memory."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import orjson
from pydantic import ValidationError
from pydantic_settings import PydanticBaseSettingsSource

from anabranch.config.problems import did_you_mean
from anabranch.document.upstreams import Opener
from anabranch.main import Process, assemble
from anabranch.observe.logs import Logs
from anabranch.observe.sink import LineSink
from anabranch.settings import Settings

# Errors that these loggers log during a case are faults of the gateway.
SERVER_LOGGERS: Final = ("uvicorn.error", "anabranch.server")


class _OwnSettings(Settings):
    """Settings of the test alone: ANABRANCH_* variables and `.env` files are ignored."""

    @classmethod
    def settings_customise_sources(  # type: ignore[override]  # pydantic names all arguments
        cls, *_: Any, init_settings: PydanticBaseSettingsSource, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def settings_of(given: Mapping[str, Any]) -> Settings:
    """The settings of a gateway under test. Raises ValueError with a sentence for each invalid one.

    By default the document is not watched, there is no admin server, and every request is logged.
    """
    known = Settings.model_fields
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known)
            raise ValueError(f"there is no setting {name}" + (f"; {hint}" if hint else ""))
    try:
        return _OwnSettings(**{"reload": "off", "access_log": "all", **given})
    except ValidationError as error:
        raise ValueError(
            "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors(include_url=False))
        ) from None


class Log(LineSink):
    """The log of a gateway, in memory. `events`: one dictionary for each line, with at least `level` and `event`.

    A context manager: while it is open, it also receives the records of the gateway's loggers, in addition to their other handlers.
    """

    __slots__ = ("_handler", "events")

    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, Any]] = []
        self._handler = _Records(self.events)

    def write(self, line: bytes) -> None:
        self.events.append(orjson.loads(line))

    @property
    def server_errors(self) -> list[str]:
        """What the servers logged as an error, tracebacks included."""
        return [event["event"] for event in self.events if event.get("logger") in SERVER_LOGGERS and event["level"] == "error"]

    def __enter__(self) -> Self:
        for name in ("anabranch", "uvicorn.error"):
            logging.getLogger(name).addHandler(self._handler)
        return self

    def __exit__(self, *_: object) -> None:
        for name in ("anabranch", "uvicorn.error"):
            logging.getLogger(name).removeHandler(self._handler)


class _Records(logging.Handler):
    def __init__(self, events: list[dict[str, Any]]) -> None:
        super().__init__()
        self._events = events

    def emit(self, record: logging.LogRecord) -> None:
        self._events.append({"level": record.levelname.lower(), "logger": record.name, "event": self.format(record)})


def gateway_process(document: Path, settings: Mapping[str, Any], log: Log, opener: Opener | None) -> Process:
    """The gateway for the document in a file or folder. Raises ConfigError, and ValueError for a wrong setting.

    `opener`: opens what answers in place of the upstreams; None: their addresses are called.
    """
    return assemble(settings_of({**settings, "document": document}), Logs("json", sink=log), stand_in=opener)


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables, and restore the previous values on leaving."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
