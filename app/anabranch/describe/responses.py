"""Describes the responses of an endpoint in OpenAPI 3.1: the merged one, problems, and what services answer that is passed on."""

from typing import Any, Final

from anabranch.core.status import BODYLESS
from anabranch.plan.kinds.call import has_cached_calls
from anabranch.plan.kinds.compute import ComputePlan
from anabranch.plan.model import EndpointPlan, ResponseField
from anabranch.plan.reuse import ReusePlan, describe_reuse

JSON = dict[str, Any]

HEADERS: Final[JSON] = {
    "Gateway-Complete": {
        "description": "`?1`: every step succeeded. `?0`: the response is partial, because an optional step failed or a step has a stale answer (a structured boolean, RFC 9651).",
        "required": True,
        "schema": {"type": "string", "enum": ["?1", "?0"]},
    },
    "Server-Timing": {
        "description": "Duration of each step in milliseconds; of a compute also `queue` and `run`. `desc` is the code of a failure, or `stale` (W3C Server Timing).",
        "schema": {"type": "string"},
    },
    "Proxy-Status": {"description": "The reason of each failed step, one member per step (RFC 9209).", "schema": {"type": "string"}},
    "X-Request-Id": {
        "description": "The id of the request: the client's, or a generated one.",
        "required": True,
        "schema": {"type": "string"},
    },
}
CACHED: Final[JSON] = {
    "Age": {
        "description": "Age of the oldest answer of a step with a cache, in seconds (RFC 9111).",
        "schema": {"type": "integer", "minimum": 0},
    },
    "Cache-Status": {
        "description": "What the gateway's cache had to do with each step that has one (RFC 9211): `hit`, or `fwd` with the reason; `ttl` in seconds.",
        "schema": {"type": "string"},
    },
}
"""Of endpoints with a step that has a cache."""
PROBLEMS: Final = {
    "400": ("BadRequest", "The parameters or the body are invalid; `errors` lists every fault."),
    "401": ("Unauthenticated", "The request has no credential that is accepted, or one that is not valid (any more)."),
    "403": ("Forbidden", "The client may not do this."),
    "404": ("NotFound", "No such endpoint: a path parameter is empty or a dot segment."),
    "406": (
        "NotAcceptable",
        "The `Accept` field of the request does not allow the media type of the response; `available` lists what there is.",
    ),
    "408": ("BodyTimeout", "The request body did not arrive before the request's deadline."),
    "413": ("BodyTooLarge", "The request body exceeds the endpoint's size limit."),
    "415": (
        "UnsupportedMediaType",
        "The content type of the request body is not the one that is described, or the body has a content coding.",
    ),
    "4XX": (
        "UpstreamRefusal",
        (
            "The upstream of a required step, or every upstream, answered with a 4xx status, which is passed on; or a function of the operator refused "
            "the request."
        ),
    ),
    "429": ("TooManyRequests", "The client has sent more requests than a limit of the endpoint allows."),
    "500": ("InternalError", "Unexpected error in the gateway, or in a Python function of its operator."),
    "502": ("BadGateway", "A required step failed, or no upstream answered."),
    "503": (
        "ServiceUnavailable",
        "The gateway or an upstream is overloaded or unavailable, or the response could not be recorded; retry later.",
    ),
    "504": ("GatewayTimeout", "A required step, or every step, timed out."),
}
RATE_LIMIT: Final[JSON] = {
    "RateLimit-Policy": {
        "description": "The limits: of each its name, with `q` requests in `w` seconds (draft-ietf-httpapi-ratelimit-headers).",
        "schema": {"type": "string"},
    },
    "RateLimit": {
        "description": "What is left of each limit: `r` requests at once, and in `t` seconds all of it (draft-ietf-httpapi-ratelimit-headers).",
        "schema": {"type": "string"},
    },
}
"""Header fields of endpoints whose limits are shown to clients."""
OF_FAN_OUT: Final = ("4XX", "500", "502", "503", "504")
_FIRST_ERROR: Final = 400
_PASSED: Final = "A problem of the gateway, or the failure of a required step's service as the service describes it."


def describe_responses(plan: EndpointPlan, schema: JSON, problem_name: str, *, has_parameters: bool) -> JSON:
    """What the endpoint answers, by status. A status that a service's answer decides is `default`; the answer may have any other listed status too."""

    def either(status: str, description: str, other: JSON) -> JSON:
        """A response with this status: a problem of the gateway, or `other`."""
        problem = problem_response(status, description, problem_name)
        return {
            "description": description,
            "headers": {**problem["headers"], **other.get("headers", {})},
            "content": {**problem["content"], **other.get("content", {})},
        }

    failures: JSON = {status: reference_to(status) for status in _failures(plan, has_parameters=has_parameters)}
    passed: JSON = {}
    if plan.response.passing:
        passed = {"*/*": {}}
        failures = {status: either(status, _PASSED, {"content": passed}) for status in sorted({*failures, "4XX", "5XX"})}
    answer = _success(plan, schema)
    known = {"304": _not_modified(answer)} if plan.is_conditional else {}
    if plan.response.status_of is None:
        status = str(plan.response.status)
        described = answer if plan.response.status < _FIRST_ERROR else either(status, answer["description"], answer)
        return {status: described, **known, **{other: failure for other, failure in failures.items() if other != status}}
    other = {**answer, "content": {**answer.get("content", {}), **passed}}
    widened = {status: either(status, f"A failure, or: {answer['description']}", other) for status in failures}
    return {"default": {**answer, "description": f"{answer['description']} The status is that of a service's answer."}, **known, **widened}


def _success(plan: EndpointPlan, schema: JSON) -> JSON:
    fields = {field.name.decode("latin-1"): field for field in plan.response.fields if field.name != b"content-type"}
    headers: JSON = {name: {"$ref": f"#/components/headers/{name}"} for name in HEADERS}
    if has_cached_calls(plan.steps):
        headers |= CACHED
    if any(limit.is_shown for limit in plan.limits):
        headers.update(RATE_LIMIT)
    headers.update({name: _field(fields[name]) for name in sorted(fields)})
    if (compression := plan.response.compression) is not None:
        headers.pop("vary", None)
        headers["Vary"] = {"description": "Names `Accept-Encoding`.", "schema": {"type": "string"}}
        headers["Content-Encoding"] = {
            "description": f"Of a body of {compression.min_size_bytes} bytes or more, for clients that accept it.",
            "schema": {"type": "string", "enum": list(compression.codings)},
        }
    if plan.response.reuse is not None:
        headers |= _reuse_fields(plan.response.reuse, headers)
    response: JSON = {"description": "The merged values of the steps.", "headers": headers}
    if plan.response.status not in BODYLESS:
        response["content"] = {plan.response.media_type or "*/*": {"schema": schema}}
    return response


def _reuse_fields(reuse: ReusePlan, headers: JSON) -> JSON:
    """By which clients and caches may keep the response. `headers`: those of the document."""
    found: JSON = {}
    if reuse.has_control:
        kept = describe_reuse(reuse)
        found["Cache-Control"] = {
            "description": f"A complete response may be kept {kept}; `no-store` otherwise.",
            "schema": {"type": "string"},
        }
    if "etag" not in headers:
        found["ETag"] = {
            "description": "Of a complete response: a digest of its bytes, to send back in `If-None-Match`.",
            "schema": {"type": "string"},
        }
    return found


def _not_modified(answer: JSON) -> JSON:
    """The response to a client that has the other one already. It has no field about content."""
    left_out = {"content-encoding", "content-language"}
    headers = {name: field for name, field in answer["headers"].items() if name.lower() not in left_out}
    return {"description": "The client has the response already: its `ETag` is in `If-None-Match`.", "headers": headers}


def _field(field: ResponseField) -> JSON:
    schema: JSON = {"type": "string"}
    if field.name == b"cache-control":
        if field.value is not None:
            schema["enum"] = list(dict.fromkeys([field.value.decode("latin-1"), "no-store"]))
        return {"description": "`no-store` on a partial response, which also has no other field for caches.", "schema": schema}
    if field.value is not None:
        schema["const"] = field.value.decode("latin-1")
    words = []
    if field.when != "always":
        words.append(f"Only of {'complete' if field.when == 'complete' else 'incomplete'} responses.")
    if field.values is not None:
        words.append("Missing when its value is.")
    return {**({"description": " ".join(words)} if words else {}), "schema": schema}


def _failures(plan: EndpointPlan, *, has_parameters: bool) -> list[str]:
    statuses = ["500", "502", "503", "504"]
    if has_parameters or plan.body is not None:
        statuses.append("400")
    if plan.access is not None:
        statuses += ["401"] if plan.access.allow is None else ["401", "403"]
    elif plan.source.allow_from or plan.source.deny_from:
        statuses.append("403")
    if plan.limits:
        statuses.append("429")
    if plan.is_negotiated:
        statuses.append("406")
    if plan.path_parameters:
        statuses.append("404")
    if plan.body is not None:
        statuses += ["408", "413", "415"]
    if any(step.upstream or isinstance(step.operation, ComputePlan) for step in plan.steps):
        statuses.append("4XX")
    return sorted(statuses)


def reference_to(status: str) -> JSON:
    """The described problem of this status."""
    return {"$ref": f"#/components/responses/{PROBLEMS[status][0]}"}


def problem_response(status: str, description: str, problem_name: str) -> JSON:
    """A response that is a problem document. `problem_name`: name of its schema."""
    headers: JSON = {"X-Request-Id": {"$ref": "#/components/headers/X-Request-Id"}}
    if status == "429":
        headers.update(RATE_LIMIT)
    if status in ("429", "503", "4XX"):
        headers["Retry-After"] = {"description": "Seconds after which to retry.", "schema": {"type": "string"}}
    if status == "401":
        headers["WWW-Authenticate"] = {
            "description": "How to prove who the client is (RFC 9110 section 11.6.1).",
            "schema": {"type": "string"},
        }
    if status == "4XX":
        headers["WWW-Authenticate"] = {"description": "Of a 401: how to authenticate.", "schema": {"type": "string"}}
        headers["Allow"] = {"description": "Of a 405: the methods that are allowed.", "schema": {"type": "string"}}
    content = {"application/problem+json": {"schema": {"$ref": f"#/components/schemas/{problem_name}"}}}
    return {"description": description, "headers": headers, "content": content}
