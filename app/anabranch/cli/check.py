"""`anabranch check` and `anabranch explain`: inspect a document without running it."""

from typing import Annotated

import typer

from anabranch.cli.options import BAD_USE, Document, compile_or_exit, counted
from anabranch.config.problems import did_you_mean
from anabranch.plan.explain import explain as explain_plan
from anabranch.policy import stack


def check(document: Document) -> None:
    """Check a document, and report every problem with file, line and column."""
    compiled = compile_or_exit(document)
    for warning in compiled.warnings:
        typer.echo(str(warning))
    parts = [counted(len(compiled.plan.endpoints), "endpoint"), counted(len(compiled.plan.upstreams), "upstream")]
    parts += [counted(len(compiled.warnings), "warning")] if compiled.warnings else []
    typer.echo(f"{document}: {', '.join(parts)}, no problems")


def explain(
    document: Document,
    endpoint: Annotated[str | None, typer.Argument(metavar="ENDPOINT", help="Name or path of one endpoint. Default: all.")] = None,
) -> None:
    """Show the plan of each endpoint: the order of its steps, how answers are read, the critical path against the deadline."""
    compiled = compile_or_exit(document)
    plans = compiled.plan
    chosen = [plan for plan in plans.endpoints if endpoint is None or endpoint in (plan.name, plan.path, f"{plan.method} {plan.path}")]
    if endpoint is not None and not chosen:
        names = [plan.name for plan in plans.endpoints]
        hint = did_you_mean(endpoint, [*names, *(plan.path for plan in plans.endpoints)])
        typer.echo(f"there is no endpoint {endpoint!r}; {hint or 'the document has ' + (', '.join(names) or 'none')}", err=True)
        raise typer.Exit(BAD_USE)
    text = "\n\n".join(explain_plan(plan, plans.upstreams, stack.describe) for plan in chosen)
    typer.echo(compiled.draft.secrets.redact(text or "the document has no endpoints"))
