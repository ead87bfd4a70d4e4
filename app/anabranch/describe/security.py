"""Security schemes: how clients prove who they are, and header parameters that tools cannot send as parameters.

OpenAPI ignores header parameters called `Accept`, `Authorization` and `Content-Type`, and browsers keep `Cookie` to themselves.

**Source:** OpenAPI 3.1 sections 4.8.12.1 (ignored parameters), 4.8.27 (security schemes) and 4.8.30 (requirements).
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from anabranch.plan.model import ParameterPlan

JSON = dict[str, Any]

_NOT_PARAMETERS: Final = frozenset({"accept", "authorization", "content-type", "cookie"})
_HTTP: Final = ("bearer", "basic")


def is_parameter(parameter: ParameterPlan) -> bool:
    """Whether tools can send it as a parameter."""
    return parameter.location != "header" or parameter.name.lower() not in _NOT_PARAMETERS


def requirements(parameters: Iterable[ParameterPlan], access: Mapping[str, JSON], schemes: JSON) -> list[JSON]:
    """The `security` of an operation with these parameters, and their schemes in `schemes`. Empty when all of them are parameters for tools.

    The client chooses one of the requirements: each has every required field, and at most one of the others. `access`: schemes by name, of which the client
    needs one; empty: none.
    """
    schemes.update(access)
    needed: JSON = {}
    optional: list[str] = []
    for parameter in parameters:
        if not is_parameter(parameter):
            name, scheme = _scheme(parameter)
            schemes.setdefault(name, scheme)
            if parameter.is_required:
                needed[name] = []
            else:
                optional.append(name)
    if not needed and not optional and not access:
        return []
    proofs: list[JSON] = [{name: []} for name in access] or [{}]
    choices: list[JSON] = [{}, *({name: []} for name in optional)]
    return [{**proof, **needed, **choice} for proof in proofs for choice in choices]


def _scheme(parameter: ParameterPlan) -> tuple[str, JSON]:
    """Name and definition of the scheme for a header field. A pattern that begins with the name of an authentication scheme decides it."""
    described = {"description": parameter.source.description} if parameter.source.description else {}
    if parameter.name.lower() == "authorization":
        pattern = str(parameter.source.schema_.get("pattern", "")).lower()
        for name in _HTTP:
            if pattern.startswith(f"^{name}"):
                return name, {"type": "http", "scheme": name, **described}
    return parameter.name.lower(), {"type": "apiKey", "in": "header", "name": parameter.name, **described}
