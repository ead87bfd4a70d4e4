"""What a step does, compiled: the seam between the compiler of endpoints and the kinds of steps.

A kind is a model in `config.step`, a module here in `kinds` with a `compile`, and one in `engine.kinds` with a `bind`.
"""

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from anabranch.config import model as config
from anabranch.config.problems import Problems
from anabranch.core.forwarding import Fields
from anabranch.jsontext.frame import Frame
from anabranch.plan.known import Known
from anabranch.plan.reference import Template, strings
from anabranch.plan.scope import Path, Scope


class OperationPlan(Protocol):
    """Immutable. What the engine binds, and what others need to know about a step without knowing its kind."""

    @property
    def upstream(self) -> str:
        """The name of the upstream that it calls; "" for none."""
        ...

    @property
    def is_idempotent(self) -> bool:
        """Whether it may be run more than once without further effect."""
        ...

    @property
    def may_be_left_out(self) -> bool:
        """Whether it may find that there is nothing to ask for, and raise LeftOut."""
        ...

    @property
    def worst_case_s(self) -> float:
        """The longest it can take by its own limits, in seconds; 0 when only the deadline limits it."""
        ...

    @property
    def most_calls(self) -> int:
        """The most upstream calls of one run, attempts included."""
        ...

    def sent(self, frame: Frame, headers: Mapping[bytes, bytes], reached: Fields, query: bytes) -> Hashable:
        """What one run is given: equal for two runs that are the same. Raises MissingReference and LeftOut. `headers`, `query`: the client's.
        `reached`: the fields that tell a service by which host, scheme and prefix it is reached."""
        ...

    def result_schema(self) -> dict[str, Any] | None:
        """JSON Schema of its result before shaping; None when nothing is known."""
        ...

    def explain(self) -> str:
        """What it does, in a few words for people, without secrets."""
        ...

    def marks(self) -> list[str]:
        """Further words for people: what is special about it."""
        ...

    def facts(self) -> dict[str, Any]:
        """The same for programs: keys of its entry in the answer to `_explain`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StepContext:
    """What the compiler of a kind gets besides the step. `at`: the step's path in the document. `local`: those of the roots `reference.LOCAL` that
    its templates know. `needs`: the names of the steps whose values it refers to, `after`: of those that only have to be settled before; `parse`
    adds to both."""

    name: str
    at: Path
    endpoint: config.Endpoint
    endpoint_name: str
    known: Known
    scope: Scope
    problems: Problems
    local: frozenset[str] = frozenset()
    needs: set[str] = field(default_factory=set)
    after: set[str] = field(default_factory=set)

    def parse(self, text: str, *where: str | int, local: Collection[str] | None = None) -> Template:
        """Parse the template at `where` below the step and check its references. Problems are reported; then the template is empty. `local`: if other than
        for the rest of the step."""
        known = self.local if local is None else local
        return self.scope.parse(text, (*self.at, *where), user=self.name, needs=self.needs, after=self.after, local=known)

    def parse_all(self, node: Any, *where: str | int) -> None:
        """Parse and check every string of a JSON template."""
        for below, text in strings(node):
            self.parse(text, *where, *below)

    def report(self, message: str, *where: str | int, **details: Any) -> None:
        """Report a problem at `where` below the step."""
        self.problems.add((*self.at, *where), message, **details)
