"""`anabranch top`: execution times of a running gateway."""

from typing import Annotated

import typer

from anabranch.cli.options import ANSWER_IS_NO
from anabranch.cli.process import AdminURL, admin_of
from anabranch.observe.admin import AdminError
from anabranch.observe.top import show_top


def top(
    url: AdminURL = None,
    once: Annotated[bool, typer.Option("--once", help="Show the table once and exit.")] = False,
    since_start: Annotated[bool, typer.Option("--since-start", help="Show figures since the start instead of the last minutes.")] = False,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between updates.")] = 2.0,
) -> None:
    """Show how long endpoints and their steps take in a running gateway, until Ctrl-C."""
    url, token = admin_of(url)
    try:
        show_top(url, token, is_once=once, is_recent=not since_start, every_s=every)
    except AdminError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(ANSWER_IS_NO) from None
