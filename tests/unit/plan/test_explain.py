"""What `anabranch explain` says of a response."""

from typing import Any

import pytest

from anabranch.plan.explain import explain
from tests.support.documents import plan_of, upstream_plan

STEPS: dict[str, Any] = {"it": {"compute": "tests.support.hooks:add", "input": {"a": 1}}}


@pytest.mark.parametrize(
    ("of_defaults", "of_endpoint", "said"),
    [
        (False, None, ""),
        (True, None, "compressed with zstd, br, gzip, from 1024 bytes on"),
        (True, False, ""),
        (False, {"encodings": ["gzip"], "min_size": "2KiB"}, "compressed with gzip, from 2048 bytes on"),
        ({"min_size": 10}, True, "compressed with zstd, br, gzip, from 1024 bytes on"),
    ],
)
def test_explain_says_how_responses_are_compressed(of_defaults: Any, of_endpoint: Any, said: str) -> None:
    plan = plan_of({"steps": STEPS, "compression": of_endpoint}, defaults={"compression": of_defaults})
    text = explain(plan, {}, lambda _: [])
    assert said in text
    assert ("compressed" in text) is bool(said)
    assert plan.digest == plan_of({"steps": STEPS}).digest, "it is no other version of the endpoint: the body is the same"


def test_explain_says_which_body_an_endpoint_takes_and_a_call_sends() -> None:
    step = {"upstream": "a", "path": "/a", "encode": "multipart", "body": {"f": "{body.f}"}}
    plan = plan_of({"method": "POST", "body": {"type": "multipart", "max_size": "2MiB"}, "steps": {"it": step}})
    text = explain(plan, {"a": upstream_plan("a")}, lambda _: [])
    assert "  body multipart/form-data, at most 2097152 bytes\n" in text
    assert "it: POST /a at a; splice, sends multipart, until the deadline" in text
    assert plan.steps[0].operation.facts() == {"upstream": "a", "encode": "multipart"}
