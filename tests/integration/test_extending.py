"""The house is open where features vary: a kind of step and a guard are added from outside, as docs/contributing.md says, and work everywhere."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from jsonschema_rs import Draft202012Validator

from anabranch.config import model as config
from anabranch.config.base import JSON
from anabranch.core.metric import Sample, metric
from anabranch.describe.document_schema import document_schema
from anabranch.document.compile import compile_file
from anabranch.engine import kinds as engine_kinds
from anabranch.engine.operation import Operation, Resources, read_value
from anabranch.engine.outcome import Outcome
from anabranch.engine.request import ClientRequest
from anabranch.errors import RequestError
from anabranch.guard import stack as guards
from anabranch.guard.guarding import Guarding
from anabranch.jsontext.frame import Frame
from anabranch.plan import kinds as plan_kinds
from anabranch.plan.explain import explain
from anabranch.plan.model import EndpointPlan, StepPlan
from anabranch.plan.operation import StepContext
from anabranch.plan.template import compile_json
from anabranch.testing.specs.run import problems_of
from tests.support.gateway import running_gateway

DOCUMENT = """
version: 1
endpoints:
  - path: "/greetings/{name}"
    name: greeting
    steps:
      greeting: {constant: {hello: "{path.name}", secret: 7}, drop: [secret]}
      again: {constant: ["{greeting.hello}"], when: "{path.name} != 'Bob'"}
"""

# ------------------------------------------------------------------------------------------------- a kind of step: three small modules


class ConstantStep(config.Step):
    """A value that stands in the document."""

    noun: ClassVar[str] = "constant"
    templates: ClassVar[frozenset[str]] = config.Step.templates | {"constant"}

    constant: JSON
    """The value: a template."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstantPlan:
    build: Callable[[Frame], bytes]
    upstream: str = ""
    is_idempotent: bool = True
    worst_case_s: float = 0.0
    most_calls: int = 0
    may_be_left_out: bool = False

    def result_schema(self) -> dict[str, Any]:
        return {"title": "A constant"}

    def explain(self) -> str:
        return "a constant"

    def marks(self) -> list[str]:
        return ["made here"]

    def sent(self, frame: Frame, headers: Mapping[bytes, bytes]) -> bytes:
        return self.build(frame)

    def facts(self) -> dict[str, Any]:
        return {"constant": True}


def compile_constant(step: ConstantStep, context: StepContext) -> ConstantPlan | None:
    context.parse_all(step.constant, "constant")
    return None if context.problems.errors else ConstantPlan(build=compile_json(step.constant, context.scope.slot, is_strict=True))


def bind_constant(step: StepPlan, plan: ConstantPlan, resources: Resources) -> Operation:
    async def run(request: ClientRequest, outcome: Outcome, frame: Frame, deadline: float) -> bytes:
        return await read_value(step, plan.build(frame), frame, outcome, resources.offload, deadline)

    return run


# ----------------------------------------------------------------------------------------------------------------- a guard: one module


class NotWelcome(RequestError):
    """The caller is not on the list."""

    code = "not_welcome"
    status = 403
    title = "Not welcome"


REFUSED_CALLERS = metric("counter", "refused_callers", "endpoint", "Requests of callers that are not on the list.")


class Doorman:
    stage: Literal["head"] = "head"

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.refused = 0

    async def __call__(self, request: ClientRequest) -> None:
        if request.headers.get(b"x-caller") != b"a friend":
            self.refused += 1
            raise NotWelcome("this caller is not on the list")

    def samples(self) -> Iterator[Sample]:
        yield Sample(REFUSED_CALLERS, (self.endpoint,), self.refused)


def build_doorman(plan: EndpointPlan, _guarding: Guarding) -> Doorman | None:
    return Doorman(plan.name) if plan.path.startswith("/greetings") else None


# --------------------------------------------------------------------------------------------------------------------------- registered


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(config.STEPS, "constant", ConstantStep)
    monkeypatch.setitem(plan_kinds.KINDS, ConstantStep, compile_constant)  # type: ignore[misc]
    monkeypatch.setitem(engine_kinds.KINDS, ConstantPlan, bind_constant)
    monkeypatch.setattr(guards, "GUARDS", [*guards.GUARDS, build_doorman])


async def test_step_of_a_new_kind_runs_with_shaping_references_and_conditions(tmp_path: Path) -> None:
    async with running_gateway(DOCUMENT, tmp_path, allow_explain=True) as gateway, gateway.client() as client:
        client.headers["x-caller"] = "a friend"
        assert (await client.get("/greetings/Zoë")).json() == {"greeting": {"hello": "Zoë"}, "again": ["Zoë"]}
        assert (await client.get("/greetings/Bob")).json() == {"greeting": {"hello": "Bob"}}
        explained = (await client.get("/greetings/Bob?_explain=true")).json()
        assert [(step["step"], step["state"], step["constant"]) for step in explained["steps"]] == [
            ("greeting", "ok", True),
            ("again", "left_out", True),
        ]
        described = (await client.get("/openapi.json")).text
        assert "A constant" in described


async def test_guard_from_outside_rejects_before_any_step_and_reports_its_numbers(tmp_path: Path) -> None:
    async with running_gateway(DOCUMENT, tmp_path) as gateway, gateway.client() as client:
        refused = await client.get("/greetings/Zoë")
        assert (refused.status_code, refused.headers["content-type"]) == (403, "application/problem+json")
        assert refused.json()["type"] == "/problems/not_welcome"
        assert "server-timing" not in refused.headers
        assert 'anabranch_refused_callers_total{endpoint="greeting"} 1.0' in (await client.get("/metrics")).text


def test_tools_know_the_new_kind(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(DOCUMENT, "utf-8")
    shown = explain(compile_file(path).plan.endpoints[0], {}, lambda _: [])
    assert "greeting: a constant; " in shown
    assert "made here" in shown
    schema = Draft202012Validator(document_schema())
    step = {"constant": {"n": "{query.n}"}, "required": True}
    assert schema.is_valid({"version": 1, "endpoints": [{"path": "/a", "steps": {"s": step}}]})
    assert not schema.is_valid({"version": 1, "endpoints": [{"path": "/a", "steps": {"s": {**step, "path": "/"}}}]})


@pytest.mark.parametrize(
    ("step", "path", "message"),
    [
        ('{constant: "{nothing.here}"}', "endpoints[0].steps.s.constant", "nothing"),
        ("{constant: 1, path: /a}", "endpoints[0].steps.s.path", "a constant cannot have `path`"),
        ("{constant: 1, upstream: a}", "endpoints[0].steps.s", "`constant` (a constant)"),
    ],
)
def test_mistakes_in_a_step_of_the_new_kind_are_located(step: str, path: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(f"version: 1\nendpoints: [{{path: /a, steps: {{s: {step}}}}}]\n", "utf-8")
    (problem,) = problems_of(file)
    assert problem.path == path
    assert message in problem.message
