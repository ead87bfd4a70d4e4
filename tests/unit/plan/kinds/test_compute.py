"""Compilation of compute steps: pools, arguments, the graph, and the output of explain."""

from typing import Any

import pytest

from anabranch.config.model import Document
from anabranch.config.problems import Problems
from anabranch.errors import MissingReference, Problem
from anabranch.plan.compile import compile_document
from anabranch.plan.explain import explain
from anabranch.plan.known import HookCheck
from anabranch.plan.model import DocumentPlan, PoolKind
from tests.support.documents import UPSTREAMS, compute_of, plan_of, problems_of


def compute(**written: Any) -> dict[str, Any]:
    return {"compute": "m:f", **written}


def document(steps: dict[str, Any], check: Any = None, **written: Any) -> tuple[DocumentPlan, list[Problem]]:
    problems = Problems()
    whole = {"version": 1, "upstreams": UPSTREAMS, "endpoints": [{"path": "/x", "name": "x", "steps": steps}], **written}
    options = {} if check is None else {"check_hook": check}
    return compile_document(Document.model_validate(whole), problems, **options), problems.errors


def test_references_in_the_input_create_edges_and_arguments() -> None:
    plan = plan_of(
        {"steps": {"a": {"upstream": "a", "path": "/"}, "f": compute(input={"n": "{a.n}", "text": "n={a.n}", "k": [1, {"x": "{a.list}"}]})}}
    )
    step = plan.steps[1]
    assert (step.needs, step.upstream, step.operation.most_calls) == ((0,), "", 0)
    build = compute_of(step).build
    frame = plan.new_frame()
    with pytest.raises(MissingReference):
        build(frame)
    plan.steps[0].read(b'{"n":1.50,"list":[1, 2]}', frame)
    assert build(frame) == b'{"n":1.50,"text":"n=1.50","k":[1,{"x":[1, 2]}]}'


def test_a_function_without_input_is_given_an_empty_object() -> None:
    plan = plan_of({"steps": {"f": compute()}})
    assert compute_of(plan.steps[0]).build(plan.new_frame()) == b"{}"


BACKENDS = {"quick": {"kind": "thread"}, "slow": {"kind": "process"}, "cluster": {"kind": "dask", "address": "tcp://x:1"}}


@pytest.mark.parametrize(
    ("step", "backends", "pool", "kind"),
    [
        ({}, {}, "thread", "thread"),
        ({"executor": "process"}, {}, "process", "process"),
        ({"pool": "process"}, {}, "process", "process"),
        ({}, BACKENDS, "quick", "thread"),
        ({"executor": "process"}, BACKENDS, "slow", "process"),
        ({"executor": "dask"}, BACKENDS, "cluster", "dask"),
        ({"pool": "slow"}, BACKENDS, "slow", "process"),
        ({"pool": "slow", "executor": "process"}, BACKENDS, "slow", "process"),
    ],
)
def test_a_step_has_one_pool(step: dict[str, Any], backends: dict[str, Any], pool: str, kind: str) -> None:
    plan, errors = document({"f": compute(**step)}, compute_backends=backends)
    assert not errors
    made = compute_of(plan.endpoints[0].steps[0])
    assert (made.pool, made.kind, made.lane) == (pool, kind, "x.f")
    assert list(plan.pools) == [pool]
    assert plan.pools[pool].backend.kind == kind


def test_only_used_pools_are_built_with_all_their_hooks() -> None:
    steps = {"f": compute(pool="slow"), "g": {"compute": "m:g", "pool": "slow"}, "h": compute(pool="slow")}
    plan, _ = document(steps, compute_backends=BACKENDS)
    assert {name: pool.hooks for name, pool in plan.pools.items()} == {"slow": ("m:f", "m:g")}
    assert document({"a": {"upstream": "a", "path": "/"}}, compute_backends=BACKENDS)[0].pools == {}


@pytest.mark.parametrize(
    ("step", "path", "message"),
    [
        ({"pool": "slwo"}, "pool", "unknown compute backend `slwo`"),
        ({"pool": "slow", "executor": "thread"}, "executor", "of kind process, not thread"),
        ({"pool": "thread", "executor": "process"}, "executor", "of kind thread, not process"),
        ({"input": {"a": "{f.x}"}}, "input.a", "refers to itself"),
        ({"input": {"a": "{"}}, "input.a", "never closed"),
    ],
)
def test_a_mistake_is_located(step: dict[str, Any], path: str, message: str) -> None:
    (found,) = problems_of({"steps": {"f": compute(**step)}}, compute_backends={"slow": {"kind": "process"}})
    assert found.path == f"endpoints[0].steps.f.{path}"
    assert message in found.message


def test_dask_needs_a_backend() -> None:
    (found,) = problems_of({"steps": {"f": compute(executor="dask")}})
    assert (found.path, "kind: dask" in found.hint) == ("endpoints[0].steps.f.executor", True)


def test_faults_of_the_hook_check_are_reported_at_their_position() -> None:
    seen: list[tuple[str, tuple[str, ...], PoolKind]] = []

    def check(hook: str, arguments: tuple[str, ...], kind: PoolKind) -> HookCheck:
        seen.append((hook, arguments, kind))
        return HookCheck(fault="not that one", hint="another", is_about_input=kind == "process")

    steps = {"f": compute(input={"a": 1}), "g": compute(input={"a": 1}, executor="process"), "h": compute(executor="process")}
    _, errors = document(steps, check)
    assert seen == [("m:f", ("a",), "thread"), ("m:f", ("a",), "process"), ("m:f", (), "process")]
    assert [error.path.rpartition(".")[2] for error in errors] == ["compute", "input", "compute"]
    assert {(error.message, error.hint) for error in errors} == {("not that one", "another")}


def test_the_schema_of_the_result_is_kept() -> None:
    plan, _ = document({"f": compute()}, lambda *_: HookCheck(result_schema={"type": "integer"}))
    assert plan.endpoints[0].steps[0].operation.result_schema() == {"type": "integer"}


def test_explain_shows_where_a_function_runs() -> None:
    steps = {"a": {"upstream": "a", "path": "/"}, "f": compute(input={"n": "{a.n}"}, pool="slow", concurrency=2, timeout="1s")}
    plan, _ = document(steps, compute_backends=BACKENDS)
    text = explain(plan.endpoints[0], plan.upstreams, lambda _: ["attempt"])
    assert "f: m:f by process in pool slow; splice, 2 at once, at most 1s" in text
    assert "critical path a -> f: 1s (deadline 2s)" in text
    assert text.count("policies of") == 1
