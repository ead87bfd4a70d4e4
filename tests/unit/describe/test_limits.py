"""What the API description and `explain` say of limits."""

from typing import Any

from anabranch.config.model import Document
from anabranch.config.problems import Problems
from anabranch.describe.openapi import describe
from anabranch.plan.compile import compile_document
from anabranch.plan.explain import explain
from anabranch.plan.model import DocumentPlan
from anabranch.policy.stack import describe as policies


def planned(*endpoints: dict[str, Any]) -> DocumentPlan:
    document = Document.model_validate(
        {
            "version": 1,
            "upstreams": {"a": {"url": "http://a", "rate": "200/1s"}},
            "rate_limits": {
                "public": {"rate": "100/1m", "burst": 20, "quota": "1000/1d", "by": ["client.ip"]},
                "silent": {"rate": "1/1s", "headers": False, "cost": 1},
            },
            "endpoints": [{"steps": {"a": {"upstream": "a", "path": "/"}}, **endpoint} for endpoint in endpoints],
        }
    )
    problems = Problems()
    plan = compile_document(document, problems)
    problems.raise_if_any()
    return plan


def test_limited_endpoints_describe_429_and_the_fields_of_all_responses() -> None:
    paths, components = describe(
        planned(
            {"path": "/limited", "rate_limits": ["public", "silent"]},
            {"path": "/silent", "rate_limits": "silent"},
            {"path": "/free", "deny_from": ["192.0.2.1"]},
        )
    )
    limited, silent, free = (paths[path]["get"]["responses"] for path in ("/limited", "/silent", "/free"))
    assert {"RateLimit", "RateLimit-Policy"} <= limited["200"]["headers"].keys()
    assert not {"RateLimit", "RateLimit-Policy"} & {*silent["200"]["headers"], *free["200"]["headers"]}
    assert limited["429"] == silent["429"] == {"$ref": "#/components/responses/TooManyRequests"}
    assert "429" not in free
    assert "403" in free
    assert {"RateLimit", "RateLimit-Policy", "Retry-After"} <= components["responses"]["TooManyRequests"]["headers"].keys()


def test_explain_shows_limits_networks_and_pace() -> None:
    plan = planned(
        {"path": "/limited", "rate_limits": ["public", "silent"], "allow_from": ["10.0.0.0/8"], "deny_from": ["10.1.0.0/16", "10.2.0.1"]}
    )
    lines = explain(plan.endpoints[0], plan.upstreams, policies).splitlines()
    assert "  limit public: 100/1m, 20 at once; quota 1000/1d; by client.ip; in memory" in lines
    assert "  limit silent: 1/1s, 1 at once; all together; cost 1; in memory" in lines
    assert "  clients from 10.0.0.0/8, not from 10.1.0.0/16, 10.2.0.1" in lines
    assert any("pace 200/1s, 4 at once" in line for line in lines)
