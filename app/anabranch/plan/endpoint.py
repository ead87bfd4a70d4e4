"""Compiles one endpoint: its parameters, its steps and their graph, its response. Reports every problem; no problem stops the others."""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Final

from anabranch.config import model as config
from anabranch.config.problems import Problems
from anabranch.jsontext import merge
from anabranch.jsontext.frame import MISSING, Frame
from anabranch.jsontext.shape import Shape, compile_filler, compile_reader
from anabranch.jsontext.values import load_exactly
from anabranch.plan.calls import most_calls
from anabranch.plan.digest import endpoint_digest
from anabranch.plan.each import local_roots
from anabranch.plan.fields import report_response_header
from anabranch.plan.graph import find_cycle, longest_path
from anabranch.plan.into import plan_into
from anabranch.plan.known import Known
from anabranch.plan.merging import assemble_steps, merge_order
from anabranch.plan.model import BodyPlan, CompressionPlan, EndpointPlan, ParameterPlan, RecordPlan, ResponsePlan, SelectPlan
from anabranch.plan.names import numbered
from anabranch.plan.operation import StepContext
from anabranch.plan.parameters import check_default, compile_parameter, type_of
from anabranch.plan.reference import ROOTS, Reference, TemplateError, in_fixed_text, keys, parse, strings
from anabranch.plan.routes import PathError, operation_name, parameter_names, parse_path
from anabranch.plan.schema import Schema, SchemaError
from anabranch.plan.scope import Path, Scope
from anabranch.plan.select import compile_select
from anabranch.plan.stand_ins import check_stand_ins, find_stand_ins, hide_stand_ins, waits
from anabranch.plan.step import StepDraft, draft_step, plan_step, report_nullable
from anabranch.plan.template import compile_json
from anabranch.plan.value import of_document

_LISTED_BYTES: Final = 4 * 1024
"""Size of a body up to which all its faults are found. Of a larger one only the first is: a body of 1 MiB can have faults for 7 s of CPU time."""
_MOST_FAULTS: Final = 20


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
            has_body=self._has_body,
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
        assemble = self._assemble(absent)
        self._scope.check_shapes(self._schemas(drafts))
        select = self._select()
        body = self._body()
        parameters = self._parameters()
        if problems.errors or any(draft.operation is None for draft in drafts):
            return None
        names = [draft.name for draft in drafts]
        must_be_object = endpoint.response.merge != "group"
        steps = tuple(
            plan_step(
                draft,
                index,
                names=names,
                scope=self._scope,
                must_be_object=must_be_object,
                may_be_left_out=draft.name in absent,
                stand_ins=stand_ins,
                dependents=[other for other, later in enumerate(drafts) if draft.name in later.needs | later.after],
            )
            for index, draft in enumerate(drafts)
        )
        assert assemble is not None
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
            body=body,
            slot_count=self._scope.slot_count,
            steps=steps,
            joins=plan_into(
                self._endpoint.steps,
                [step.needs for step in steps],
                {draft.name: draft.each.reference for draft in drafts if draft.each is not None},
                self._refill,
            ),
            ready=tuple(step.index for step in steps if not step.needs and not step.is_on_demand),
            response=ResponsePlan(
                assemble=assemble,
                merge_order=merge_order(endpoint.response),
                visible=self._counted(names),
                status=endpoint.response.status,
                headers=tuple((name.lower().encode(), value.encode()) for name, value in endpoint.response.headers.items()),
                compression=_compression(defaults.compression if endpoint.compression is None else endpoint.compression),
            ),
            record=_record(endpoint),
            numbers=None if defaults.public_names else numbered(names, self._known.upstreams),
            digest=endpoint_digest(endpoint),
            select=None if select is None else select[0],
            source=endpoint,
        )
        self._check_deadline(plan)
        self._check_calls(plan)
        return plan

    # ------------------------------------------------------------------------------------------------------- names

    @property
    def _name(self) -> str:
        return self._endpoint.name or operation_name(self._endpoint.method, self._segments)

    def _parse_path(self) -> tuple[str, ...]:
        try:
            return parse_path(self._endpoint.path)
        except PathError as error:
            self._problems.add((*self._at, "path"), str(error), value=self._endpoint.path)
            return tuple(self._endpoint.path.strip("/").split("/"))

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
            if name in ROOTS:
                message = f"a step cannot be called `{name}`: it would shadow the reference root of that name"
                self._problems.add(at, message, hint=f"the roots are {', '.join(ROOTS)}", at_key=True)
        for name, value in self._endpoint.response.headers.items():
            report_response_header((*self._at, "response", "headers", name), name, value, self._problems)

    def _check_fixed_texts(self) -> None:
        """Report references in what is not a template: they would be sent with their braces."""
        endpoint, at = self._endpoint, self._at
        roots = {*ROOTS, *endpoint.steps, *self._broken("steps")}
        fixed: list[tuple[Path, Any, str]] = [
            ((*at, "response", "headers", name), value, "header fields of a response are fixed text")
            for name, value in endpoint.response.headers.items()
        ]
        templates: list[tuple[Path, Any]] = [((*at, "response", "body"), endpoint.response.body)]
        for name, step in endpoint.steps.items():
            fixed.append(((*at, "steps", name, "default"), step.default, "a default is a fixed value"))
            templates += [((*at, "steps", name, part), getattr(step, part)) for part in step.templates]
        for where, node, rule in fixed:
            if (found := in_fixed_text(node, roots)) is not None:
                self._problems.add(where, f"{found} has no effect here: {rule}")
        for where, node in templates:
            for path in keys(node):
                if (found := in_fixed_text(path[-1], roots)) is not None:
                    self._problems.add((*where, *path), f"{found} has no effect here: keys are fixed text", at_key=True)

    # ------------------------------------------------------------------------------------------------------- steps

    def _report_step(self, name: str, message: str, where: Path, **details: Any) -> None:
        self._problems.add((*self._at, "steps", name, *where), message, **details)

    def _shown(self) -> set[str]:
        """The names of the steps to which `response.body` refers."""
        if "body" not in self._endpoint.response.model_fields_set:
            return set()
        texts = [text for _, text in strings(self._endpoint.response.body)]
        return {part.root for text in texts for part in _references(text)}

    def _draft(self, name: str, step: config.Step) -> StepDraft:
        at = (*self._at, "steps", name)
        if self._endpoint.response.merge != "group" and step.has_default and not isinstance(step.default, dict | None):
            message = f"with `merge: {self._endpoint.response.merge}` a default must be an object or null: it is merged by its keys"
            self._problems.add((*at, "default"), message, value=step.default)
        if self._endpoint.response.merge != "group" and step.each is not None and step.wrap is None and not step.is_hidden:
            message = f"with `merge: {self._endpoint.response.merge}` the value of a step with `each`, an array, needs `wrap`"
            self._problems.add((*at, "each"), message)
        context = StepContext(
            name=name,
            at=at,
            endpoint=self._endpoint,
            endpoint_name=self._name,
            known=self._known,
            scope=self._scope,
            problems=self._problems,
            local=local_roots(step),
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

    # ---------------------------------------------------------------------------------------------------- response

    def _assemble(self, absent: set[str]) -> merge.Assemble | None:
        """What builds the response. `absent`: names of the steps that may be left out."""
        response = self._endpoint.response
        visible = [(index, name) for index, (name, step) in enumerate(self._endpoint.steps.items()) if not step.is_hidden]
        if "body" in response.model_fields_set:
            for where, text in strings(response.body):
                at = (*self._at, "response", "body", *where)
                report_nullable(self._scope.parse(text, at), partial(self._problems.add, at))
            try:
                render = compile_json(response.body, self._scope.slot, is_strict=False)
            except TemplateError:
                return None
            return lambda _values, frame: render(frame)
        return assemble_steps(response, visible, may_be_absent=any(name in absent for _, name in visible))

    def _select(self) -> tuple[SelectPlan, ParameterPlan] | None:
        at = (*self._at, "response", "select", "parameter")
        return compile_select(self._endpoint, self._scope, lambda message: self._problems.add(at, message))

    def _refill(self, step: str) -> Callable[[bytes, Frame], None] | None:
        """What fills the slots of the references to a step again; None when the response has no template."""
        return compile_filler(self._scope.slots_of(step)) if "body" in self._endpoint.response.model_fields_set else None

    def _schemas(self, drafts: list[StepDraft]) -> dict[str, Any]:
        """The JSON Schemas of what references refer to, as far as they are known."""
        results = {draft.name: draft.operation.result_schema() for draft in drafts if draft.operation is not None}
        body = self._endpoint.body
        return {**results, "body": None if body is None else body.schema_}

    def _counted(self, names: list[str]) -> tuple[int, ...]:
        """The steps that decide whether anything could be answered: those that `response.body` refers to, otherwise the visible ones."""
        response = self._endpoint.response
        if "body" in response.model_fields_set:
            shown = {
                part.root for _, text in strings(response.body) for part in parse(text) if isinstance(part, Reference) and not part.is_soft
            }
            if counted := tuple(index for index, name in enumerate(names) if name in shown):
                return counted
        return tuple(index for index, name in enumerate(names) if not self._endpoint.steps[name].is_hidden)

    # ----------------------------------------------------------------------------------------- what the client sends

    def _parameters(self) -> list[ParameterPlan]:
        in_path = parameter_names(self._segments)
        declared = dict(self._endpoint.parameters)
        for name, parameter in declared.items():
            if parameter.in_ == "path" and name not in in_path:
                message = f"the path has no parameter `{name}`"
                self._problems.add((*self._at, "parameters", name), message, hint=f"add {{{name}}} to the path", at_key=True)
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
        slots = self._scope.slots_of(parameter.in_)
        return ParameterPlan(
            name=key,
            location=parameter.in_,
            is_required=parameter.required or parameter.in_ == "path",
            default=default,
            slot=next((slot for path, slot in slots if path == (key,)), None),
            read=read,
            source=parameter,
            is_list=type_of(parameter.schema_) == "array",
            segment=self._segments.index(f"{{{name}}}") if parameter.in_ == "path" else -1,
            field=key.encode() if parameter.in_ == "header" else b"",
        )

    def _body(self) -> BodyPlan | None:
        source = self._endpoint.body
        slots = self._scope.slots_of("body")
        if source is not None and not self._has_body:
            self._problems.add((*self._at, "body"), "a GET endpoint has no request body", hint="use another method", at_key=True)
        if source is None and not slots:
            return None
        validate = None
        if source is not None and source.schema_ not in (True, {}):
            try:
                validate = _body_check(Schema(source.schema_))
            except SchemaError as error:
                self._problems.add((*self._at, "body", "schema"), str(error))
        fill = compile_reader(Shape(), slots) if slots else None

        def read(body: bytes, frame: Frame) -> None:
            if fill is not None:
                fill(body, frame)

        return BodyPlan(
            is_required=source.required if source is not None else self._endpoint.method != "DELETE",
            max_size_bytes=(source.max_size if source is not None else None) or self._known.defaults.max_body,
            validate=validate,
            read=read,
            source=source,
        )


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


def _compression(written: bool | config.Compression) -> CompressionPlan | None:
    rule = config.Compression() if written is True else written
    return CompressionPlan(codings=tuple(rule.encodings), min_size_bytes=rule.min_size) if rule else None


def _record(endpoint: config.Endpoint) -> RecordPlan | None:
    rule = endpoint.journal
    if rule is False:
        return None
    rule = config.JournalRule() if rule is True else rule
    return RecordPlan(
        sample=rule.sample, bodies=rule.bodies, durability=rule.durability, headers=tuple(name.lower() for name in rule.headers)
    )


_UNDECLARED = config.Parameter.model_validate({"in": "path", "required": True})


def _body_check(schema: Schema) -> Callable[[bytes], None]:
    def validate(body: bytes) -> None:
        try:
            value = load_exactly(body)
        except ValueError as error:
            raise ValueError(f"it cannot be checked: {error}") from None
        if schema.is_valid(value):
            return
        if len(body) > _LISTED_BYTES:
            raise ValueError(schema.first_fault(value))
        faults = list(schema.faults(value))
        if len(faults) > _MOST_FAULTS:
            faults[_MOST_FAULTS:] = [f"and {len(faults) - _MOST_FAULTS} more faults"]
        raise ValueError(*faults)

    return validate
