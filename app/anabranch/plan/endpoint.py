"""Compiles one endpoint: its parameters, its steps and their graph, its response. Reports every problem; no problem stops the others."""

import re
from collections.abc import Callable, Collection
from typing import Any, Final

from anabranch.config import model as config
from anabranch.config.problems import Problems
from anabranch.jsontext.frame import MISSING, Frame
from anabranch.jsontext.shape import compile_filler
from anabranch.plan.access import access_of, compile_access
from anabranch.plan.body import FILES, compile_body, report_body, shape_schema
from anabranch.plan.calls import most_calls
from anabranch.plan.digest import endpoint_digest
from anabranch.plan.each import local_roots
from anabranch.plan.graph import find_cycle, longest_path
from anabranch.plan.into import plan_into
from anabranch.plan.known import Known
from anabranch.plan.limits import compile_limits
from anabranch.plan.merging import MUST_BE
from anabranch.plan.model import BodyPlan, EndpointPlan, FailuresRule, ParameterPlan, RecordPlan, SelectPlan
from anabranch.plan.names import numbered
from anabranch.plan.operation import StepContext
from anabranch.plan.parameters import check_default, compile_parameter, type_of
from anabranch.plan.reference import AUTH, ROOTS, Reference, TemplateError, in_fixed_text, keys, parse, strings
from anabranch.plan.response import compile_response
from anabranch.plan.reuse import add_reuse
from anabranch.plan.routes import PathError, Segments, operation_name, parameter_names, parse_path, split_path
from anabranch.plan.schema import SchemaError
from anabranch.plan.scope import Path, Scope
from anabranch.plan.select import compile_select
from anabranch.plan.stand_ins import check_stand_ins, find_stand_ins, hide_stand_ins, waits
from anabranch.plan.step import StepDraft, draft_step, plan_step
from anabranch.plan.value import of_document

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_MERGED: Final[dict[str, tuple[type, str]]] = {
    "object": (dict, "an object or null: it is merged by its keys"),
    "array": (list, "an array or null: it is merged by its elements"),
}
"""What a default must be for the values that are merged, by what these must be."""


class EndpointCompiler:
    """Compiles one endpoint of a document. `at`: its path in the document."""

    def __init__(self, endpoint: config.Endpoint, *, known: Known, problems: Problems, at: Path) -> None:
        self._endpoint = endpoint = hide_stand_ins(endpoint)
        self._known = known
        self._problems = problems
        self._at = at
        self._segments = self._parse_path()
        self._has_body = endpoint.method != "GET"
        self._scope = Scope(
            problems=problems,
            steps=endpoint.steps,
            broken=self._broken("steps"),
            parameters=self._parameter_names(),
            rest=next((segment.names[0] for segment in self._segments if segment.is_rest), None),
            has_body=self._has_body,
            has_principal=access_of(endpoint, known) is not None,
            broken_parameters=None if (*at, "parameters") in known.broken else {*self._broken("parameters"), *self._misplaced()},
        )

    def _broken(self, section: str) -> set[str]:
        """The names in a section of the endpoint that the models rejected."""
        return {str(path[-1]) for path in self._known.broken if path[:-1] == (*self._at, section)}

    def compile(self) -> EndpointPlan | None:
        """The plan; None when there is a problem."""
        endpoint, problems, defaults = self._endpoint, self._problems, self._known.defaults
        self._check_names()
        self._check_fixed_texts()
        drafts = [self._draft(name, step) for name, step in endpoint.steps.items()]
        check_stand_ins(endpoint.steps, self._broken("steps"), self._report_step)
        self._check_graph(drafts)
        used = {need for draft in drafts for need in draft.needs | draft.after} | self._shown()
        stand_ins = find_stand_ins(endpoint.steps, used)
        absent = _absent(drafts, stand_ins.on_demand)
        response = compile_response(endpoint, known=self._known, scope=self._scope, problems=problems, at=self._at, absent=absent)
        self._scope.check_shapes(self._schemas(drafts))
        select = self._select(None if response is None else response.failures)
        limits = compile_limits(
            endpoint, parameter_names(self._segments), known=self._known, scope=self._scope, problems=problems, at=self._at
        )
        access = compile_access(endpoint, known=self._known, scope=self._scope, problems=problems, at=self._at)
        body = self._body()
        parameters = self._parameters()
        if response is not None:
            response = add_reuse(
                response,
                endpoint,
                drafts,
                parameters,
                stand_ins.only,
                access=access_of(endpoint, self._known),
                known=self._known,
                scope=self._scope,
                problems=problems,
                at=self._at,
            )
        if problems.errors or any(draft.operation is None for draft in drafts):
            return None
        names = [draft.name for draft in drafts]
        must_be = MUST_BE[endpoint.response.merge]
        steps = tuple(
            plan_step(
                draft,
                index,
                names=names,
                scope=self._scope,
                must_be=must_be,
                may_be_left_out=draft.name in absent,
                stand_ins=stand_ins,
                dependents=[other for other, later in enumerate(drafts) if draft.name in later.needs | later.after],
            )
            for index, draft in enumerate(drafts)
        )
        assert response is not None
        plan = EndpointPlan(
            name=self._name,
            method=endpoint.method,
            path=endpoint.path,
            segments=self._segments,
            timeout_s=endpoint.timeout_s or defaults.timeout_s,
            max_requests=endpoint.max_requests or defaults.max_requests,
            path_parameters=tuple(item for item in parameters if item.location == "path"),
            query_parameters=(*(item for item in parameters if item.location == "query"), *([] if select is None else [select[1]])),
            header_parameters=tuple(item for item in parameters if item.location == "header"),
            cookie_parameters=tuple(item for item in parameters if item.location == "cookie"),
            body=body,
            slot_count=self._scope.slot_count,
            steps=steps,
            joins=plan_into(
                self._endpoint.steps,
                {draft.name: draft.each.reference for draft in drafts if draft.each is not None},
                self._refill,
            ),
            ready=tuple(step.index for step in steps if not step.needs and not step.is_on_demand),
            response=response,
            record=_record(endpoint),
            numbers=None if defaults.public_names else numbered(names, self._known.upstreams),
            digest=endpoint_digest(endpoint),
            access=access,
            limits=limits,
            select=None if select is None else select[0],
            source=endpoint,
        )
        self._check_deadline(plan)
        self._check_calls(plan)
        self._check_room(plan)
        return plan

    # ------------------------------------------------------------------------------------------------------- names

    @property
    def _name(self) -> str:
        return self._endpoint.name or operation_name(self._endpoint.method, self._segments)

    def _parse_path(self) -> Segments:
        try:
            return parse_path(self._endpoint.path)
        except PathError as error:
            self._problems.add((*self._at, "path"), str(error), value=self._endpoint.path)
            return split_path(self._endpoint.path)

    def _parameter_names(self) -> dict[tuple[str, str], bool]:
        names = {("path", name): False for name in parameter_names(self._segments)}
        for name, parameter in self._endpoint.parameters.items():
            key = name.lower() if parameter.in_ == "header" else name
            if parameter.in_ != "path":
                names[parameter.in_, key] = not parameter.required and "default" not in parameter.model_fields_set
        return names

    def _misplaced(self) -> list[str]:
        """Parameters declared with `in: path` that the path does not have."""
        known = parameter_names(self._segments)
        return [name for name, parameter in self._endpoint.parameters.items() if parameter.in_ == "path" and name not in known]

    def _check_names(self) -> None:
        for name in self._endpoint.steps:
            at = (*self._at, "steps", name)
            if name in ROOTS and (name != AUTH or self._scope.has_principal):
                message = f"a step cannot be called `{name}`: it would shadow the reference root of that name"
                self._problems.add(at, message, hint=f"the roots are {', '.join(ROOTS)}", at_key=True)

    def _check_fixed_texts(self) -> None:
        """Report references in what is not a template: they would be sent with their braces."""
        endpoint, at = self._endpoint, self._at
        roots = {*ROOTS, *endpoint.steps, *self._broken("steps")}
        fixed: list[tuple[Path, Any]] = []
        templates: list[tuple[Path, Any]] = [((*at, "response", "body"), endpoint.response.body)]
        for name, step in endpoint.steps.items():
            fixed.append(((*at, "steps", name, "default"), step.default))
            templates += [((*at, "steps", name, part), getattr(step, part)) for part in step.templates]
        for where, node in fixed:
            if (found := in_fixed_text(node, roots)) is not None:
                self._problems.add(where, f"{found} has no effect here: a default is a fixed value")
        for where, node in templates:
            for path in keys(node):
                if (found := in_fixed_text(path[-1], roots)) is not None:
                    self._problems.add((*where, *path), f"{found} has no effect here: keys are fixed text", at_key=True)

    # ------------------------------------------------------------------------------------------------------- steps

    def _report_step(self, name: str, message: str, where: Path, **details: Any) -> None:
        self._problems.add((*self._at, "steps", name, *where), message, **details)

    def _shown(self) -> set[str]:
        """The names of the steps to which the response refers: its body, its header fields, its status."""
        response = self._endpoint.response.model_dump(exclude={"select"}, exclude_unset=True)
        return {part.root for _, text in strings(response) for part in _references(text)}

    def _draft(self, name: str, step: config.Step) -> StepDraft:
        at = (*self._at, "steps", name)
        merge, must_be = self._endpoint.response.merge, MUST_BE[self._endpoint.response.merge]
        if step.has_default and step.default is not None and must_be and not isinstance(step.default, _MERGED[must_be][0]):
            message = f"with `merge: {merge}` a default must be {_MERGED[must_be][1]}"
            self._problems.add((*at, "default"), message, value=step.default)
        if must_be == "object" and step.each is not None and step.wrap is None and not step.is_hidden:
            message = f"with `merge: {merge}` the value of a step with `each`, an array, needs `wrap`"
            self._problems.add((*at, "each"), message)
        if must_be == "array" and step.wrap is not None and not step.is_hidden:
            self._problems.add((*at, "wrap"), f"with `merge: {merge}` the value must be an array, and `wrap` makes it an object")
        context = StepContext(
            name=name,
            at=at,
            endpoint=self._endpoint,
            endpoint_name=self._name,
            known=self._known,
            scope=self._scope,
            problems=self._problems,
            local=local_roots(step, is_batch_broken=self._known.is_broken(*at, "batch")),
        )
        return draft_step(step, context)

    def _check_graph(self, drafts: list[StepDraft]) -> None:
        needs = {
            draft.name: sorted(
                ((draft.needs | draft.after | set(draft.source.stand_ins)) & self._endpoint.steps.keys()) - {draft.name},
                key=list(self._endpoint.steps).index,
            )
            for draft in drafts
        }
        cycle = find_cycle(needs)
        if cycle is not None:
            self._problems.add(
                (*self._at, "steps", cycle[0]), f"the steps depend on each other in a cycle: {' -> '.join(cycle)}",
                hint="a step waits for every step that it refers to, and for those that stand in for it; remove one of these references", at_key=True,
            )  # fmt: skip

    def _check_deadline(self, plan: EndpointPlan) -> None:
        longest, chain = longest_path(waits(plan.steps), [step.worst_case_s for step in plan.steps])
        if longest > plan.timeout_s + 1e-9:
            names = " -> ".join(plan.steps[index].name for index in chain)
            self._problems.add(
                (*self._at, "timeout") if self._endpoint.timeout_s else (*self._at, "path"),
                f"the critical path {names} may take {longest:.3g}s, but the deadline is {plan.timeout_s:.3g}s",
                hint="the deadline cuts it off; reduce the timeouts or the number of attempts, or extend the deadline",
                is_warning=True,
            )

    def _check_calls(self, plan: EndpointPlan) -> None:
        limit = self._endpoint.max_calls or self._known.defaults.max_calls
        calls = most_calls(plan.steps)
        if limit is not None and calls.most > limit:
            self._problems.add(
                (*self._at, "max_calls") if self._endpoint.max_calls else (*self._at, "path"),
                f"one request may make {calls.most} upstream calls ({calls.formula}), and `max_calls` is {limit}",
                hint="reduce `max_items` or the number of attempts, or ask for many elements in one call with `batch`",
                is_warning=True,
            )

    def _check_room(self, plan: EndpointPlan) -> None:
        """Warn of elements that would fail only because there are too many at once for the upstream's bulkhead."""
        for step in plan.steps:
            if step.each is None or not step.upstream:
                continue
            bulkhead = self._known.upstreams[step.upstream].bulkhead
            batch = step.source.batch
            at_once, where = (step.each.at_once, ("at_once",)) if batch is None else (batch.at_once, ("batch", "at_once"))
            if min(at_once, step.each.most_runs) > bulkhead.limit + bulkhead.queue:
                is_set = "at_once" in (step.source if batch is None else batch).model_fields_set
                self._problems.add(
                    (*self._at, "steps", step.name, *(where if is_set else ("each",))),
                    f"{at_once} runs at once are more than the upstream `{step.upstream}` admits: {bulkhead.limit} and {bulkhead.queue} that wait",
                    hint="reduce `at_once`, or raise the upstream's `concurrency`",
                    is_warning=True,
                )

    def _select(self, failures: FailuresRule | None) -> tuple[SelectPlan, ParameterPlan] | None:
        at = (*self._at, "response", "select", "parameter")
        return compile_select(self._endpoint, self._scope, failures, lambda message: self._problems.add(at, message))

    def _refill(self, step: str) -> Callable[[bytes, Frame], None] | None:
        """What fills the slots of the references to a step again; None when the response has no template."""
        has_templates = self._endpoint.response.model_fields_set & {"body", "headers", "status"}
        return compile_filler(self._scope.slots_of(step)) if has_templates else None

    def _schemas(self, drafts: list[StepDraft]) -> dict[str, Any]:
        """The JSON Schemas of what references refer to, as far as they are known."""
        results = {draft.name: draft.operation.result_schema() for draft in drafts if draft.operation is not None}
        body = self._endpoint.body
        return {**results, "body": None if body is None else shape_schema(body)}

    # ----------------------------------------------------------------------------------------- what the client sends

    def _parameters(self) -> list[ParameterPlan]:
        in_path = parameter_names(self._segments)
        declared = dict(self._endpoint.parameters)
        for name, parameter in declared.items():
            if parameter.in_ == "path" and name not in in_path:
                message = f"the path has no parameter `{name}`"
                hint = f"its name is `{name[:-3]}`" if name.endswith("...") and name[:-3] in in_path else f"add {{{name}}} to the path"
                self._problems.add((*self._at, "parameters", name), message, hint=hint, at_key=True)
        ordered = [(name, declared[name] if name in declared and declared[name].in_ == "path" else _UNDECLARED) for name in in_path]
        ordered += [(name, parameter) for name, parameter in declared.items() if parameter.in_ != "path"]
        plans = [self._parameter(name, parameter) for name, parameter in ordered]
        return [plan for plan in plans if plan is not None]

    def _parameter(self, name: str, parameter: config.Parameter) -> ParameterPlan | None:
        at = (*self._at, "parameters", name)
        try:
            read = compile_parameter(parameter.schema_)
        except SchemaError as error:
            self._problems.add((*at, "schema"), str(error))
            return None
        default: Any = MISSING
        if "default" in parameter.model_fields_set:
            default = of_document(parameter.default)
            try:
                check_default(parameter.schema_, parameter.default)
            except ValueError as error:
                self._problems.add((*at, "default"), f"the default does not match the schema: {error}", value=parameter.default)
        key = name.lower() if parameter.in_ == "header" else name
        is_list = type_of(parameter.schema_) == "array"
        segment = next((index for index, one in enumerate(self._segments) if name in one.names), -1) if parameter.in_ == "path" else -1
        if (fault := self._fault(name, parameter, segment)) is not None:
            self._problems.add(at, fault, at_key=True)
        slots = self._scope.slots_of(parameter.in_)
        return ParameterPlan(
            name=key,
            location=parameter.in_,
            is_required=parameter.required or parameter.in_ == "path",
            default=default,
            slot=next((slot for path, slot in slots if path == (key,)), None),
            read=read,
            source=parameter,
            is_list=is_list,
            segment=segment,
            field=key.encode() if parameter.in_ == "header" else b"",
        )

    def _fault(self, name: str, parameter: config.Parameter, segment: int) -> str | None:
        """Why a parameter can never be sent as it is declared; None when it can."""
        kind = type_of(parameter.schema_)
        if parameter.in_ == "cookie":
            if not _TOKEN.fullmatch(name):
                return "the name of a cookie must be a token: letters, digits and symbols such as `-`, `.` and `_` (RFC 6265 section 4.1.1)"
            if kind == "array":
                return "a cookie cannot be an array: its value has no commas (RFC 6265 section 4.1.1)"
        if parameter.in_ == "path" and segment >= 0:
            if self._segments[segment].is_rest and kind != "string":
                return f"`{name}` takes all remaining segments, which are a string"
            if self._segments[segment].is_mixed and kind == "array":
                return f"an array must be a whole segment, and there is text around `{name}`"
        return None

    def _body(self) -> BodyPlan | None:
        source = self._endpoint.body
        slots = self._scope.slots_of("body")
        if source is not None and not self._has_body:
            self._problems.add((*self._at, "body"), "a GET endpoint has no request body", hint="use another method", at_key=True)
        if source is None and not slots:
            return None
        if source is not None:
            report_body(source, (*self._at, "body"), self._problems)
        try:
            return compile_body(
                source,
                slots,
                is_required=self._endpoint.method != "DELETE",
                max_size_bytes=(source.max_size if source is not None else None) or self._known.defaults.max_body,
                files_slot=self._scope.known_slot(FILES),
            )
        except SchemaError as error:
            self._problems.add((*self._at, "body", "schema"), str(error))
            return None


def _references(text: str) -> list[Reference]:
    try:
        return [part for part in parse(text) if isinstance(part, Reference)]
    except TemplateError:
        return []  # reported by the scope


def _absent(drafts: list[StepDraft], on_demand: Collection[str]) -> set[str]:
    """The names of the steps that may be left out of the response: for a reason of their own, such as a condition, or of a step that they need. `on_demand`: of
    those that run only when they are asked for."""
    absent = set(on_demand)
    is_growing = True
    while is_growing:
        found = set(on_demand) | {
            draft.name for draft in drafts if not draft.source.has_default and (draft.may_be_left_out or draft.needs & absent)
        }
        is_growing = not found <= absent
        absent |= found
    return absent


def _record(endpoint: config.Endpoint) -> RecordPlan | None:
    rule = endpoint.journal
    if rule is False:
        return None
    rule = config.JournalRule() if rule is True else rule
    return RecordPlan(
        sample=rule.sample, bodies=rule.bodies, durability=rule.durability, headers=tuple(name.lower() for name in rule.headers)
    )


_UNDECLARED = config.Parameter.model_validate({"in": "path", "required": True})
