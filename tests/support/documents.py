"""Builds documents and plans for unit tests from short dicts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anabranch.config.load import Draft, read
from anabranch.config.model import Document, Upstream
from anabranch.config.problems import Problems
from anabranch.errors import Problem
from anabranch.jsontext.frame import Frame
from anabranch.plan.compile import compile_document
from anabranch.plan.kinds.call import CallPlan
from anabranch.plan.kinds.compute import ComputePlan
from anabranch.plan.model import EndpointPlan, StepPlan
from anabranch.plan.upstream import UpstreamPlan, compile_upstream

UPSTREAMS = {"a": {"url": "http://127.0.0.1:1"}, "b": {"url": "http://127.0.0.1:2"}}


def problems_of(endpoint: dict[str, Any], **document: Any) -> list[Problem]:
    """All problems of a document with one endpoint, warnings last."""
    problems = Problems()
    whole = {"version": 1, "upstreams": UPSTREAMS, "endpoints": [{"path": "/x", **endpoint}], **document}
    compile_document(Document.model_validate(whole), problems)
    return [*problems.errors, *problems.warnings]


def plan_of(endpoint: dict[str, Any], **document: Any) -> EndpointPlan:
    """The plan of one endpoint. Fails when the document has problems."""
    problems = Problems()
    whole = {"version": 1, "upstreams": UPSTREAMS, "endpoints": [{"path": "/x", **endpoint}], **document}
    plan = compile_document(Document.model_validate(whole), problems)
    assert not problems.errors, [str(problem) for problem in problems.errors]
    return plan.endpoints[0]


def upstream_plan(name: str = "a", **settings: Any) -> UpstreamPlan:
    """The plan of an upstream. `settings`: as in the document."""
    return compile_upstream(name, Upstream.model_validate(settings if "urls" in settings else {"url": "http://127.0.0.1:1", **settings}))


def call_of(step: StepPlan) -> CallPlan:
    """What a call step does."""
    assert isinstance(step.operation, CallPlan)
    return step.operation


def compute_of(step: StepPlan) -> ComputePlan:
    """What a compute step does."""
    assert isinstance(step.operation, ComputePlan)
    return step.operation


def slot(plan: EndpointPlan, frame: Frame, name: str, value: Any) -> None:
    """Put a parameter's value into its slot."""
    for parameter in (*plan.path_parameters, *plan.query_parameters, *plan.header_parameters):
        if parameter.name == name and parameter.slot is not None:
            frame[parameter.slot] = value
            return
    raise AssertionError(f"nothing refers to the parameter {name}")


def sound(path: Path, environ: Mapping[str, str]) -> Draft:
    """The document in a file or folder. Raises ConfigError when it has a problem."""
    draft = read(path, environ)
    draft.problems.raise_if_any()
    return draft
