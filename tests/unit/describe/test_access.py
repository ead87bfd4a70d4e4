"""What the API description says of who may use an endpoint."""

from typing import Any

from anabranch.config.model import Document
from anabranch.config.problems import Problems
from anabranch.describe.openapi import describe
from anabranch.plan.compile import compile_document

KEY = "8fab151ebfe45da0ce0c2a951f8bba063f8668389b08a793acf59f301a6dbd57"


def described(*endpoints: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    document = Document.model_validate(
        {
            "version": 1,
            "upstreams": {"a": {"url": "http://a"}},
            "auth": {"partners": {"api_key": {"keys": {"x": {"sha256": KEY}}}}, "staff": {"basic": {"users": ""}}},
            "endpoints": [{"steps": {"a": {"upstream": "a", "path": "/"}}, **endpoint} for endpoint in endpoints],
        }
    )
    problems = Problems()
    plan = compile_document(document, problems)
    problems.raise_if_any()
    return describe(plan)


def test_each_endpoint_names_the_schemes_of_which_one_suffices() -> None:
    paths, components = described(
        {"path": "/both", "auth": ["partners", "staff"]},
        {"path": "/one", "auth": {"any": ["partners"], "allow": '{auth.sub} == "x"'}},
        {"path": "/open", "auth": "none"},
        {"path": "/field", "auth": "partners", "parameters": {"cookie": {"in": "header"}}},
    )
    assert components["securitySchemes"]["partners"] == {"type": "apiKey", "in": "header", "name": "x-api-key"}
    assert components["securitySchemes"]["staff"] == {"type": "http", "scheme": "basic"}
    assert paths["/both"]["get"]["security"] == [{"partners": []}, {"staff": []}]
    assert paths["/one"]["get"]["security"] == [{"partners": []}]
    assert "security" not in paths["/open"]["get"]
    assert paths["/field"]["get"]["security"] == [{"partners": []}, {"partners": [], "cookie": []}]
    assert {"401", "403"} <= paths["/one"]["get"]["responses"].keys()
    assert "403" not in paths["/both"]["get"]["responses"]
    assert "401" not in paths["/open"]["get"]["responses"]
    assert "WWW-Authenticate" in components["responses"]["Unauthenticated"]["headers"]
