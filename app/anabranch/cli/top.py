"""`anabranch top`: execution times of a running gateway."""

from typing import Annotated

import typer

from anabranch.cli.options import ANSWER_IS_NO, BAD_USE, settings_of
from anabranch.observe.top import TopError, show_top


def top(
    url: Annotated[
        str | None, typer.Option(help="URL of the admin server. Default: from ANABRANCH_ADMIN_HOST and ANABRANCH_ADMIN_PORT.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Show the table once and exit.")] = False,
    since_start: Annotated[bool, typer.Option("--since-start", help="Show figures since the start instead of the last minutes.")] = False,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between updates.")] = 2.0,
) -> None:
    """Show how long endpoints and their steps take in a running gateway, until Ctrl-C."""
    settings = settings_of()
    if url is None:
        if not settings.admin_port:
            typer.echo("no admin address: pass --url or set ANABRANCH_ADMIN_PORT", err=True)
            raise typer.Exit(BAD_USE)
        url = f"http://{f'[{settings.admin_host}]' if ':' in settings.admin_host else settings.admin_host}:{settings.admin_port}"
    token = None if settings.admin_token is None else settings.admin_token.get_secret_value()
    try:
        show_top(url, token, is_once=once, is_recent=not since_start, every_s=every)
    except TopError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(ANSWER_IS_NO) from None
