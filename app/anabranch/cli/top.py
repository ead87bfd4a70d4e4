"""`anabranch top`: execution times of a running gateway."""

from typing import Annotated

import typer

from anabranch.cli.options import ANSWER_IS_NO, BAD_USE, settings_of
from anabranch.observe.top import TopError, show_top


def top(
    url: Annotated[
        str | None, typer.Option(help="Address of the admin server; by ANABRANCH_ADMIN_HOST and ANABRANCH_ADMIN_PORT when left out.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Show the table once and leave.")] = False,
    since_start: Annotated[bool, typer.Option("--since-start", help="All since the start instead of the last minutes.")] = False,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = 2.0,
) -> None:
    """Show how long endpoints and their steps take in a running gateway. Ctrl-C ends it."""
    settings = settings_of()
    if url is None:
        if not settings.admin_port:
            typer.echo("there is no address to ask: give --url, or set ANABRANCH_ADMIN_PORT as the gateway has it", err=True)
            raise typer.Exit(BAD_USE)
        url = f"http://{f'[{settings.admin_host}]' if ':' in settings.admin_host else settings.admin_host}:{settings.admin_port}"
    token = None if settings.admin_token is None else settings.admin_token.get_secret_value()
    try:
        show_top(url, token, is_once=once, is_recent=not since_start, every_s=every)
    except TopError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(ANSWER_IS_NO) from None
