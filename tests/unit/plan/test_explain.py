"""What `anabranch explain` says of a response."""

from typing import Any

import pytest

from anabranch.config.model import Document
from anabranch.plan.explain import explain, explain_rules
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


@pytest.mark.parametrize(
    ("cache", "response", "said"),
    [
        (True, {}, "for as long as all answers in them are fresh\n"),
        ({"max_age": "1m", "shared_max_age": "1h", "scope": "public"}, {}, "for 60s, by shared caches for 3600s, by everybody\n"),
        ({"scope": "private", "stale_if_error": "5s"}, {}, "by the client alone because the document says so, stale-if-error 5\n"),
        (True, {"headers": {"set-cookie": "a=1"}}, "by the client alone because they set a cookie\n"),
    ],
)
def test_explain_says_how_responses_may_be_kept(cache: Any, response: dict[str, Any], said: str) -> None:
    plan = plan_of({"steps": STEPS, "response": {"cache": cache, **response}})
    lines = [line for line in explain(plan, {}, lambda _: []).splitlines() if "may be kept" in line]
    assert f"{''.join(lines)}\n".endswith(said)
    assert plan.digest == plan_of({"steps": STEPS, "response": response}).digest


def test_explain_says_nothing_of_it_where_the_gateway_says_nothing() -> None:
    assert "may be kept" not in explain(plan_of({"steps": STEPS}), {}, lambda _: [])


def test_explain_says_which_body_an_endpoint_takes_and_a_call_sends() -> None:
    step = {"upstream": "a", "path": "/a", "encode": "multipart", "body": {"f": "{body.f}"}}
    plan = plan_of({"method": "POST", "body": {"type": "multipart", "max_size": "2MiB"}, "steps": {"it": step}})
    text = explain(plan, {"a": upstream_plan("a")}, lambda _: [])
    assert "  body multipart/form-data, at most 2097152 bytes\n" in text
    assert "it: POST /a at a; splice, sends multipart, until the deadline" in text
    assert plan.steps[0].operation.facts() == {"upstream": "a", "encode": "multipart"}


def test_explain_says_what_is_decided_before_any_endpoint() -> None:
    rules = [{"deny": '{header.user-agent} matches "bot"', "status": 404}]
    document = Document.model_validate({"version": 1, "allow_from": ["10.0.0.0/8"], "deny_from": ["10.1.0.0/16"], "rules": rules})
    assert explain_rules(document).splitlines() == [
        "before any endpoint",
        "  from 10.0.0.0/8",
        "  not from 10.1.0.0/16",
        '  404 if {header.user-agent} matches "bot"',
    ]
    assert explain_rules(Document(version=1)) == ""
