"""The description of the whole application in OpenAPI 3.1: FastAPI's own of the routes in Python, and ours of the document's endpoints."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute, iter_route_contexts

from anabranch.config.auth import access_of
from anabranch.describe.openapi import add_failures, describe
from anabranch.describe.responses import reference_to
from anabranch.document.authenticated import asked_of
from anabranch.jsontext.values import write
from anabranch.plan.model import DocumentPlan


def describe_app(app: FastAPI, document: DocumentPlan | None, fan_out: Callable[..., Any]) -> dict[str, Any]:
    """The description of `app`. `document`: None before one is loaded. `fan_out`: the dependency of routes that call upstreams."""
    source = None if document is None else document.source
    whole = get_openapi(
        title="Anabranch" if source is None else source.title,
        version="1.0.0" if source is None else source.api_version,
        description=None if source is None else source.description or None,
        routes=app.routes,
    )
    taken = whole.get("components", {}).get("schemas", {})
    problem_name = "Problem" if "Problem" not in taken else "GatewayProblem"
    if document is not None:
        _describe_failures(whole, app, fan_out)
        _describe_access(whole, app, document)
        paths, components = describe(document, problem_name)
        for path, operations in paths.items():
            whole["paths"].setdefault(path, {}).update(operations)
        for kind, named in components.items():
            whole.setdefault("components", {}).setdefault(kind, {}).update(named)
        _answer_validation_with_problems(whole, problem_name)
    return whole


def with_server(whole: dict[str, Any], url: str) -> bytes:
    """The description as JSON, with `url` as the place below which all paths are. A relative one starts at the description's own address."""
    head = {key: whole[key] for key in ("openapi", "info") if key in whole}
    return write({**head, "servers": [{"url": url}], **{key: value for key, value in whole.items() if key not in head}})


def _describe_failures(whole: dict[str, Any], app: FastAPI, fan_out: Callable[..., Any]) -> None:
    """Add the problem responses of routes in Python, which are those of the document's endpoints."""
    for route in iter_route_contexts(app.routes):
        if isinstance(route.original_route, APIRoute):
            operations = whole["paths"].get(route.path_format, {})
            for method in route.methods or ():
                if method.lower() in operations:
                    add_failures(operations[method.lower()], has_fan_out=_uses(route.dependant, fan_out))


def _describe_access(whole: dict[str, Any], app: FastAPI, document: DocumentPlan) -> None:
    """Add to the routes in Python what they ask of clients, and how they reject others."""
    default = access_of(document.source.defaults.auth)
    for route in iter_route_contexts(app.routes):
        if not isinstance(route.original_route, APIRoute):
            continue
        asked = list(asked_of(route.dependant))
        operations = whole["paths"].get(route.path_format, {})
        for method in route.methods or () if asked else ():
            if (operation := operations.get(method.lower())) is None:
                continue
            proofs: list[dict[str, Any]] = [{}]
            for one in asked:
                names = one.names or (() if default is None else default.any_)
                proofs = [{**proof, name: []} for proof in proofs for name in names]
                for name in names:
                    schemes = whole.setdefault("components", {}).setdefault("securitySchemes", {})
                    schemes[name] = document.auth[name].kind.scheme()
            operation["security"] = [{**own, **proof} for own in operation.get("security") or [{}] for proof in proofs]
            operation.setdefault("responses", {}).setdefault("401", reference_to("401"))


def _uses(dependant: Dependant, call: Callable[..., Any]) -> bool:
    return any(one.call is call or _uses(one, call) for one in dependant.dependencies)


def _answer_validation_with_problems(whole: dict[str, Any], problem_name: str) -> None:
    """Replace FastAPI's schema of a 422, since the gateway answers it with a problem document."""
    is_replaced = False
    for operations in whole["paths"].values():
        for operation in operations.values():
            response = operation.get("responses", {}).get("422", {}) if isinstance(operation, dict) else {}
            schema = response.get("content", {}).get("application/json", {}).get("schema", {})
            if schema.get("$ref") == "#/components/schemas/HTTPValidationError":
                response["content"] = {"application/problem+json": {"schema": {"$ref": f"#/components/schemas/{problem_name}"}}}
                is_replaced = True
    if is_replaced:
        for name in ("HTTPValidationError", "ValidationError"):
            whole["components"]["schemas"].pop(name, None)
