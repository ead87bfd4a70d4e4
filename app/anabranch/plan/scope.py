"""Resolves the references of one endpoint, and assigns their slots.

The same reference always gets the same slot. A reference that cannot be resolved is reported and gets a slot too, so that the compiler can
continue and find the next problem.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from anabranch.config import model as config
from anabranch.config.problems import Problems, did_you_mean
from anabranch.jsontext.path import parse_path
from anabranch.plan.reference import AUTH, LOCAL, ROOTS, VALUE, Reference, Template, TemplateError, parse
from anabranch.plan.shapes import impossible_reason
from anabranch.plan.visibility import hidden_reason

Path = tuple[str | int, ...]

_OF_PRINCIPAL: Final = ("sub", "name", "via", "claims")


class Scope:
    """`steps`: all valid steps by name. `broken`: names of invalid steps, which have been reported already.

    `parameters`: (location, name) of each parameter, with whether the client may leave it out; header names in lower case.
    `rest`: name of the path parameter that takes all remaining segments; None when there is none.
    `has_principal`: whether clients prove who they are.
    `broken_parameters`: names of declared parameters whose location is unknown, which has been reported; None: all may be.
    """

    def __init__(
        self,
        *,
        problems: Problems,
        steps: Mapping[str, config.Step],
        broken: Collection[str],
        parameters: Mapping[tuple[str, str], bool],
        has_body: bool,
        rest: str | None = None,
        broken_parameters: Collection[str] | None = (),
        has_principal: bool = False,
    ) -> None:
        self._problems = problems
        self._steps = steps
        self._broken = broken
        self._parameters = parameters
        self._has_body = has_body
        self._rest = rest
        self.has_principal = has_principal
        self._broken_parameters = None if broken_parameters is None else frozenset(name.lower() for name in broken_parameters)
        self._slots: dict[tuple[str, str, tuple[str, ...]], int] = {}
        self._used: dict[str, dict[Reference, None]] = {}
        self._valid: dict[Reference, list[Path]] = {}

    @property
    def slot_count(self) -> int:
        return len(self._slots)

    def slots_of(self, root: str) -> list[tuple[tuple[str, ...], int]]:
        """All references to the value of one root: (path, slot)."""
        return [(path, slot) for (of, meta, path), slot in self._slots.items() if of == root and not meta]

    def metadata_of(self, root: str) -> tuple[tuple[str, str, int], ...]:
        """All references to what a step is, not to its value: (what, name of a header field or "", slot)."""
        return tuple((meta, path[0] if path else "", slot) for (of, meta, path), slot in self._slots.items() if of == root and meta)

    def references_of(self, user: str) -> tuple[Reference, ...]:
        """The references of a step, in the order in which they were parsed."""
        return tuple(self._used.get(user, ()))

    def slot(self, reference: Reference) -> int:
        """The slot of a reference. Assigns a new one for a new reference."""
        path = reference.path
        if reference.root == "header" and path:
            path = (path[0].lower(), *path[1:])
        return self._slots.setdefault((reference.root, reference.meta, path), len(self._slots))

    def known_slot(self, reference: Reference) -> int | None:
        """The slot that a reference has already; None for none."""
        return self._slots.get((reference.root, reference.meta, reference.path))

    def parse(
        self,
        text: str,
        at: Path,
        *,
        user: str | None = None,
        needs: "set[str] | None" = None,
        after: "set[str] | None" = None,
        local: Collection[str] = (),
    ) -> Template:
        """Parse a template and check its references.

        `user`: the step that it belongs to. `local`: those of the roots `LOCAL` that are known here. Adds the steps whose values it refers to to
        `needs`, and those of which it needs to know only what became of them to `after`.
        """
        try:
            template = parse(text)
        except TemplateError as error:
            self._problems.add(at, str(error), value=text)
            return ()
        for part in template:
            if isinstance(part, Reference):
                self._check(part, at, user=user, local=local)
                if user is not None:
                    self._used.setdefault(user, {})[part] = None
                if part.root in self._steps and part.root not in local and (found := after if part.is_soft else needs) is not None:
                    found.add(part.root)
        return template

    def parse_as(self, text: str, report: Callable[[str], None]) -> Template:
        """Parse a template of another part of the document, which this endpoint uses. `report`: is called with each mistake; empty when there is one."""
        own = Problems(self._problems.positions, self._problems.secrets)
        before, self._problems = self._problems, own
        try:
            template = self.parse(text, ())
        finally:
            self._problems = before
        for problem in own.errors:
            report(f"{problem.message}{f'; {problem.hint}' if problem.hint else ''}")
        return () if own.errors else template

    def check_shapes(self, schemas: Mapping[str, Any]) -> None:
        """Report the references parsed so far that go where the values of their roots have nothing. `schemas`: JSON Schema of the values by root;
        for a step, of the answer before it is shaped."""
        for reference, places in self._valid.items():
            path = self._unshaped(reference) if reference.root in schemas else None
            if path and (reason := impossible_reason(schemas[reference.root], reference.root, path)) is not None:
                for at in places:
                    self._problems.add(at, f"{reference} never has a value: {reason}")

    def _unshaped(self, reference: Reference) -> tuple[str, ...] | None:
        """The path of a reference in what the step receives; None when that is not certain."""
        step = self._steps.get(reference.root)
        if step is None:
            return reference.path
        if step.rename is not None or step.has_default or step.fallback is not None:
            return None
        path = reference.path if step.wrap is None else reference.path[1:]
        path = path if step.each is None else path[1:]
        return path if step.target is None else (*parse_path(step.target), *path)

    def is_rest(self, reference: Reference) -> bool:
        """Whether the reference is to all remaining segments of the client's path."""
        return reference.root == "path" and reference.path == (self._rest,)

    def is_optional(self, reference: Reference) -> bool:
        """Whether the client may leave out what the reference names."""
        key = (reference.root, reference.path[0].lower() if reference.root == "header" else reference.path[0]) if reference.path else None
        return key is not None and self._parameters.get(key, False)

    def _check(self, reference: Reference, at: Path, *, user: str | None, local: Collection[str]) -> None:
        root, path = reference.root, reference.path
        if root in local:
            if root in self._steps:
                message = f"{reference} is ambiguous: `{root}` is {LOCAL[root]}, and a step has that name too"
                self._problems.add(at, message, hint="give the step another name")
        elif root in LOCAL and root not in self._steps and root not in self._broken:
            self._problems.add(at, f"{reference} is not known here: `{root}` is {LOCAL[root]}", value=str(reference))
        elif root == AUTH and (self.has_principal or AUTH not in self._steps):
            self._check_principal(reference, at)
        elif root == "body":
            if not self._has_body:
                self._problems.add(at, "a GET endpoint has no request body to refer to", value=str(reference))
            else:
                self._note(reference, at)
        elif root in ROOTS and root != AUTH:
            self._check_parameter(reference, at)
        elif root in self._steps:
            if root == user:
                hint = f"its own answer is {{{VALUE}}} here" if VALUE in local else ""
                self._problems.add(at, f"the step `{root}` refers to itself", hint=hint, value=str(reference))
            elif reference.meta:
                step = self._steps[root]
                if not reference.is_soft and (not step.has_answer or step.each is not None):
                    noun = step.noun if step.each is None else "step with `each`"
                    self._problems.add(at, f"{reference} never has a value: a {noun} has no status and no header fields")
            elif (reason := self._hidden_reason(root, path)) is not None:
                self._problems.add(
                    at,
                    f"{reference} never has a value: {reason}",
                    hint="references are resolved after target, pick, drop, rename and wrap",
                )
            else:
                self._note(reference, at)
        elif root not in self._broken:
            hint = did_you_mean(root, [*self._steps, *ROOTS])
            self._problems.add(
                at,
                f"unknown step `{root}` in {reference}",
                hint=hint or "a reference begins with path, query, header, cookie, body, auth or a step's name",
            )

    def _check_principal(self, reference: Reference, at: Path) -> None:
        path = reference.path
        if not self.has_principal:
            self._problems.add(at, f"{reference} never has a value: the endpoint has no `auth`", value=str(reference))
        elif path and path[0] not in _OF_PRINCIPAL:
            known = ", ".join(f"{{auth.{name}}}" for name in _OF_PRINCIPAL)
            self._problems.add(
                at, f"{reference} never has a value: of a client there are {known}", hint=did_you_mean(path[0], _OF_PRINCIPAL)
            )
        elif len(path) > 1 and path[0] != "claims":
            self._problems.add(at, f"{reference} never has a value: {{auth.{path[0]}}} is text")

    def _hidden_reason(self, root: str, path: tuple[str, ...]) -> str | None:
        """Why a reference to a step's value never has one: neither in its own value nor in that of its fallback."""
        step = self._steps[root]
        return hidden_reason(step, path) if step.fallback is None else None

    def _note(self, reference: Reference, at: Path) -> None:
        """Note where a reference stands. Compilers may parse a text again, without knowing its place as exactly."""
        places = self._valid.setdefault(reference, [])
        if not any(known[: len(at)] == at for known in places):
            places.append(at)

    def _check_parameter(self, reference: Reference, at: Path) -> None:
        root, path = reference.root, reference.path
        known = [name for location, name in self._parameters if location == root]
        if not path:
            self._problems.add(at, f"{reference} names no parameter", hint=f"write {{{root}.name}}")
            return
        name = path[0].lower() if root == "header" else path[0]
        if name not in known:
            if self._broken_parameters is None or name.lower() in self._broken_parameters:
                return
            where = "the endpoint's path" if root == "path" else "the endpoint's parameters"
            locations = [
                location for location, declared in self._parameters if declared == (name.lower() if location == "header" else path[0])
            ]
            if (dotted := ".".join(path)) != path[0] and (dotted.lower() if root == "header" else dotted) in known:
                hint = f'a name with a dot is written in double quotes: {{{root}."{dotted}"}}'
            elif locations:
                hint = f"it is declared with `in: {locations[0]}`: write {{{locations[0]}.{path[0]}}}"
            elif not (hint := did_you_mean(name, known)):
                hint = f"declare it: `parameters: {{{path[0]}: {{in: {root}}}}}`"
                if root == "path":
                    hint = f"the path has {', '.join(f'`{name}`' for name in known)}" if known else "the path has no parameters"
            self._problems.add(at, f"unknown {root} parameter `{path[0]}`: it is not in {where}", value=str(reference), hint=hint)
        elif len(path) > 1:
            self._problems.add(at, f"a {root} parameter has no fields", value=str(reference))
