"""Shared by the commands that use the settings of the process, or ask a running gateway."""

from typing import Annotated

import typer

from anabranch.cli.options import BAD_USE, exit_with
from anabranch.errors import ConfigError
from anabranch.settings import Settings, read_settings

AdminURL = Annotated[
    str | None, typer.Option("--url", help="URL of the admin server. Default: from ANABRANCH_ADMIN_HOST and ANABRANCH_ADMIN_PORT.")
]


def admin_of(url: str | None) -> tuple[str, str | None]:
    """The URL and the token of the admin server; ends the command when there is no address."""
    settings = settings_of()
    if url is None:
        if not settings.admin_port:
            typer.echo("no admin address: pass --url or set ANABRANCH_ADMIN_PORT", err=True)
            raise typer.Exit(BAD_USE)
        url = f"http://{f'[{settings.admin_host}]' if ':' in settings.admin_host else settings.admin_host}:{settings.admin_port}"
    return url, None if settings.admin_token is None else settings.admin_token.get_secret_value()


def settings_of(**given: object) -> Settings:
    """The settings; ends the command when they are not usable."""
    try:
        return read_settings(**given)
    except ConfigError as error:
        exit_with(error.problems)
