"""The format of a spec file. Strict: an unknown key is an error, so that no expectation is silently skipped.

docs/specs.md describes the format for authors. Nothing here opens a socket.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML

from anabranch.config.units import parse_duration, parse_size


class SpecError(Exception):
    """A spec file is unusable. The message names file, case and reason."""


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=False)


def _is_pattern(value: str) -> str:
    re.compile(value)
    return value


def _count(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return Count(value, value)
    match = re.fullmatch(r"(\d+)\.\.(\d+)", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("a number of hits, or a range such as 1..2")
    return Count(int(match[1]), int(match[2]))


@dataclass(frozen=True, slots=True)
class Count:
    """How often an event may have happened: a range, bounds included."""

    low: int
    high: int

    def allows(self, number: int) -> bool:
        return self.low <= number <= self.high

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}..{self.high}"


Times = Annotated[Count, BeforeValidator(_count)]
Duration = Annotated[float, BeforeValidator(parse_duration)]
Size = Annotated[int, BeforeValidator(parse_size)]
Pattern = Annotated[str, AfterValidator(_is_pattern)]


class Text(Model):
    """Constraints on a text whose exact value is not known."""

    contains: str | None = None
    excludes: str | None = None
    matches: Pattern | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "Text":
        if not self.model_fields_set:
            raise ValueError("give at least one of contains, excludes, matches")
        return self

    def fault(self, value: str) -> str:
        """What is wrong with `value`, or "" when it matches."""
        if self.contains is not None and self.contains not in value:
            return f"expected it to contain {self.contains!r}"
        if self.excludes is not None and self.excludes in value:
            return f"expected it not to contain {self.excludes!r}"
        if self.matches is not None and re.fullmatch(self.matches, value) is None:
            return f"expected it to match {self.matches!r}"
        return ""


# Exact value; null: must be absent; list: every occurrence in order; or a Text.
Headers = dict[str, str | list[str] | Text | None]


class Expect(Model):
    """Expectations on one response."""

    status: int
    headers: Headers = {}
    json_: Any = Field(None, alias="json")
    body: str | Text | None = None
    problem: dict[str, Any] | None = None
    within: Duration | None = None
    not_before: Duration | None = None


class Sent(Model):
    """One request of the client, and the expected response."""

    send: Annotated[str, Field(pattern=r"^\S+ \S+$")]
    headers: dict[str, str | list[str]] = {}
    json_: Any = Field(None, alias="json")
    body: str | None = None
    bytes_: str | None = Field(None, alias="bytes")
    body_size: Size | None = None
    repeat: int = Field(1, ge=1)
    chunks: int | None = Field(None, ge=1)
    times: int = Field(1, ge=1)
    wait: Duration | None = None
    after_hits: dict[str, int] = {}
    after_aborted: dict[str, int] = {}
    after_answers: int = Field(0, ge=0)
    leave_after_hits: dict[str, int] | None = None
    expect: Expect | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Sent":
        if len(self.model_fields_set & {"json_", "body", "bytes_", "body_size"}) > 1:
            raise ValueError("a request has one of json, body, bytes, body_size")
        if (self.expect is None) == (self.leave_after_hits is None):
            raise ValueError("a request has either expect or leave_after_hits")
        return self


class Seen(Model):
    """Expectations on one request that an upstream has received."""

    method: str | None = None
    target: str | Text | None = None
    headers: Headers = {}
    json_: Any = Field(None, alias="json")
    body: str | None = None


class ExpectedProblem(Model):
    """One problem that must be found in a document."""

    path: str
    message: str | Text = ""
    hint: str | Text = ""
    is_warning: bool = False


Hits = Times | dict[Annotated[str, Field(pattern="^/")], Times]


class Case(Model):
    """One behaviour of the gateway."""

    name: str
    document: dict[str, Any] | str | None = None
    endpoint: dict[str, Any] | None = None
    upstreams: dict[str, dict[str, Any]] = {}
    configure: dict[str, dict[str, Any]] = {}
    env: dict[str, str] = {}
    files: dict[str, str] = {}
    settings: dict[str, Any] = {}
    requests: list[Sent] = []
    together: bool = False
    hits: dict[str, Hits] | None = None
    seen: dict[str, list[Seen]] = {}
    aborted: dict[str, Times] = {}
    peak: dict[str, Times] = {}
    connections: dict[str, Times] = {}
    expect_problems: list[ExpectedProblem] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Case":
        if (self.document is None) == (self.endpoint is None):
            raise ValueError("a case has either document or endpoint (a document of that one endpoint)")
        if self.configure and (self.document is not None):
            raise ValueError("configure needs endpoint; a document configures its upstreams itself")
        if (self.expect_problems is None) == (not self.requests):
            raise ValueError("a case has either requests or expect_problems")
        if self.upstreams and self.expect_problems is None and self.hits is None:
            raise ValueError("a case with upstreams must give the expected hits")
        checked: list[dict[str, Any]] = [self.hits or {}, self.seen, self.aborted, self.peak, self.connections]
        checked += [request.after_hits for request in self.requests]
        checked += [request.after_aborted for request in self.requests]
        checked += [request.leave_after_hits or {} for request in self.requests]
        for unknown in {name for names in checked for name in names} - set(self.upstreams):
            raise ValueError(f"there is no upstream {unknown} in this case")
        return self


class SpecFile(Model):
    """A theme and its cases."""

    about: str
    cases: list[Case] = Field(min_length=1)

    @model_validator(mode="after")
    def _unique(self) -> "SpecFile":
        names = [case.name for case in self.cases]
        for name in {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two cases have the name {name!r}")
        return self


def read_spec_file(path: Path) -> SpecFile:
    """Read and check one file. Raises SpecError, which lists every mistake."""
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text("utf-8"))
    except Exception as fault:
        raise SpecError(f"{path.name}: {fault}") from fault
    try:
        return SpecFile.model_validate(content)
    except ValidationError as fault:
        lines = [f"{path.name}: not a spec file"]
        for error in fault.errors(include_url=False):
            where = list(error["loc"])
            name = ""
            if len(where) >= 2 and where[0] == "cases" and isinstance(where[1], int):
                case = content["cases"][where[1]]
                name = f" (case {case.get('name', where[1])!r})" if isinstance(case, dict) else ""
            lines.append(f"  {'.'.join(map(str, where))}{name}: {error['msg']}")
        raise SpecError("\n".join(lines)) from fault
