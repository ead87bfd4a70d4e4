"""`anabranch check` and `anabranch explain`: inspect a document without running it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from anabranch.cli.document import compile_or_exit
from anabranch.cli.options import BAD_CONFIG, BAD_USE, Document, counted
from anabranch.config.problems import did_you_mean
from anabranch.document.compile import Compiled, compile_file
from anabranch.errors import ConfigError, Problem
from anabranch.plan.calls import most_calls
from anabranch.plan.explain import explain as explain_plan
from anabranch.plan.explain import explain_rules
from anabranch.plan.model import EndpointPlan
from anabranch.policy import stack


def check(
    document: Document,
    without_secrets: Annotated[
        bool,
        typer.Option("--without-secrets", help="Only warn about variables, secret files and certificates that do not exist here."),
    ] = False,
    format_: Annotated[
        Literal["text", "json", "github"], typer.Option("--format", help="`github`: annotations of a GitHub workflow.")
    ] = "text",
) -> None:
    """Check a document, and report every problem with file, line and column.

    Also shows the digest of the document, which `/admin/reload` of a gateway shows for the document in force.
    """
    compiled: Compiled | None = None
    problems: Sequence[Problem]
    try:
        compiled = compile_file(document, without_secrets=without_secrets)
        problems = compiled.warnings
    except ConfigError as error:
        problems = error.problems
    if format_ == "json":
        typer.echo(_as_json(document, compiled, problems))
    else:
        for problem in problems:
            typer.echo(_annotation(problem) if format_ == "github" else str(problem), err=compiled is None and format_ == "text")
        typer.echo(_summary(document, compiled, problems), err=compiled is None)
    if compiled is None:
        raise typer.Exit(BAD_CONFIG)


def _summary(document: Path, compiled: Compiled | None, problems: Sequence[Problem]) -> str:
    if compiled is None:
        return counted(len(problems), "problem")
    parts = [counted(len(compiled.plan.endpoints), "endpoint"), counted(len(compiled.plan.upstreams), "upstream")]
    parts += [counted(len(problems), "warning")] if problems else []
    calls = [f"{plan.method} {plan.path}: at most {most_calls(plan.steps).formula}" for plan in compiled.plan.endpoints]
    shown = "\n".join(["upstream calls of one request", *(f"  {line}" for line in calls)]) + "\n" if calls else ""
    return f"{document}: {', '.join(parts)}, no problems\n{shown}digest {compiled.draft.digest}"


def _as_json(document: Path, compiled: Compiled | None, problems: Sequence[Problem]) -> str:
    """`digest`, `endpoints`, `upstreams`, `calls`: null when the document is not usable."""
    report = {
        "document": str(document),
        "usable": compiled is not None,
        "digest": None if compiled is None else compiled.draft.digest,
        "endpoints": None if compiled is None else len(compiled.plan.endpoints),
        "upstreams": None if compiled is None else len(compiled.plan.upstreams),
        "calls": None if compiled is None else [_calls(plan) for plan in compiled.plan.endpoints],
        "problems": [
            {
                "severity": "warning" if problem.is_warning else "error",
                "file": problem.file,
                "line": problem.line,
                "column": problem.column,
                "path": problem.path,
                "message": problem.message,
                "value": problem.value,
                "hint": problem.hint,
            }
            for problem in problems
        ],
    }
    return msgspec.json.format(msgspec.json.encode(report), indent=2).decode()


def _calls(plan: EndpointPlan) -> dict[str, object]:
    calls = most_calls(plan.steps)
    return {"endpoint": plan.name, "method": plan.method, "path": plan.path, "most": calls.most, "formula": calls.formula}


def _annotation(problem: Problem) -> str:
    """A workflow command of GitHub Actions. **Source:** docs.github.com, "Workflow commands": `%`, CR and LF are escaped, in properties also `:`
    and `,`."""
    kind = "warning" if problem.is_warning else "error"
    at = f"file={_property(problem.file)}" + (f",line={problem.line},col={problem.column}" if problem.line else "")
    found = "" if problem.value is None else f" (found {problem.value})"
    hint = f"; {problem.hint}" if problem.hint else ""
    return f"::{kind} {at},title={_property(problem.path or 'document')}::{_escaped(f'{problem.message}{found}{hint}')}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")


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
    if not chosen:
        typer.echo(f"{document} has no endpoints to explain", err=True)
        raise typer.Exit(BAD_USE)
    rules = explain_rules(plans.source) if endpoint is None else ""
    text = "\n\n".join([*([rules] if rules else []), *(explain_plan(plan, plans.upstreams, stack.describe) for plan in chosen)])
    typer.echo(compiled.draft.secrets.redact(text))
