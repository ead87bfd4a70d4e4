"""`anabranch top`: the execution times of a running gateway as a table, read from the admin server."""

from time import sleep
from typing import Any, Final

from rich.console import Console
from rich.live import Live
from rich.table import Table

from anabranch.observe.admin import AdminError, ask

PATH: Final = "/admin/timings"


def fetch(url: str, token: str | None) -> dict[str, Any]:
    """Fetch the execution times from the admin server at `url`. Raises AdminError."""
    return ask(url, PATH, token)


def table(report: dict[str, Any], *, is_recent: bool = True) -> Table:
    """The report as a table: one row for each endpoint, its steps indented below. `is_recent`: the last minutes instead of all since the
    start."""
    span = "since_start"
    title = f"since the start, {_age(report['up_s'])} ago"
    if is_recent:
        span = "recent"
        title = f"the last {report['window_s'] / 60:.0f} to {report['window_s'] / 30:.0f} minutes"
    if (worker := report.get("worker")) is not None:
        title += f" (worker {worker} only: each worker has its own admin port)"
    shown = Table(title=f"Execution times in ms, {title}", title_justify="left", caption_justify="left")
    shown.add_column("endpoint / step", overflow="fold")
    for column in ("count", "failed", "mean", "p50", "p95", "p99", "max"):
        shown.add_column(column, justify="right")
    for endpoint in sorted(report["endpoints"], key=lambda one: -one[span]["count"]):
        shown.add_row(f"[bold]{_plain(endpoint['endpoint'])}[/bold]", *_cells(endpoint, span))
        for step in endpoint["steps"]:
            shown.add_row(f"  {_plain(step['step'])}", *_cells(step, span), style="dim" if not step[span]["count"] else "")
    return shown


def show_top(url: str, token: str | None, *, is_once: bool, is_recent: bool, every_s: float) -> None:
    """Show the table until Ctrl-C, or once. Raises AdminError when the first fetch fails; later failures are shown in the table's caption."""
    console = Console()
    first = table(fetch(url, token), is_recent=is_recent)
    if is_once:
        console.print(first)
        return
    try:
        with Live(first, console=console, auto_refresh=False, screen=console.is_terminal) as live:
            while True:
                sleep(every_s)
                try:
                    first = table(fetch(url, token), is_recent=is_recent)
                except AdminError as error:
                    first.caption = str(error)
                live.update(first, refresh=True)
    except KeyboardInterrupt:
        return


def _cells(row: dict[str, Any], span: str) -> list[str]:
    figures = row[span]
    # Failures are only counted since the start.
    times = [f"{figures[f'{name}_ms']:.1f}" if figures["count"] else "" for name in ("mean", "p50", "p95", "p99", "max")]
    return [str(figures["count"]), str(row["failed"] or ""), *times]


def _plain(name: str) -> str:
    return name.replace("[", r"\[")


def _age(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
