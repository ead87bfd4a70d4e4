"""The response of an endpoint in the document: how values are merged, its status and its header fields."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from anabranch.config.base import JSON, HeaderName, HeaderValue, Model
from anabranch.config.reuse import ResponseCache
from anabranch.core import status as statuses


class ResponseHeader(Model):
    """A header field of a response, with the responses that have it."""

    value: HeaderValue
    """The value: a template."""
    when: Literal["always", "complete", "partial"] = "always"
    """Which responses have the field. `complete`: those with `Gateway-Complete: ?1`, such as a permission for caches to keep the response. `partial`:
    those with `Gateway-Complete: ?0`."""


Headers = dict[HeaderName, HeaderValue | ResponseHeader | None]
ShowFailures = bool | Annotated[str, Field(min_length=1)]


class DefaultResponse(Model):
    """What the responses of all endpoints have that do not say otherwise."""

    headers: Headers = {}
    """Header fields of responses that are not errors, as in `response.headers`, but without references. A field of the same name in an endpoint
    replaces one, and null removes it there."""
    show_failures: ShowFailures = False
    """As in `response.show_failures`, for endpoints whose response is an object and that have optional steps."""
    cache: bool | ResponseCache | None = None
    """As in `response.cache`, for GET endpoints. A rule here makes no response public whose endpoint has `auth`, or that depends on a credential."""


class Select(Model):
    """Lets clients select parts of the response. Steps that nothing selected needs are not called."""

    parameter: str = Field(min_length=1)
    """Name of the query parameter with the selection, such as `fields`: `?fields=flight(id,carrier),weather.temp`. Names are separated by commas; a dot or
    parentheses go a level down, and into every element of an array. Without the parameter, the response is whole."""

    @field_validator("parameter")
    @classmethod
    def _is_free(cls, name: str) -> str:
        if name == "_explain":
            raise ValueError("`_explain` asks for an explanation of the response; use another name, such as `fields`")
        return name


class Response(Model):
    """How the values of the steps are combined into one response."""

    merge: Literal["group", "flat", "deep", "concat"] = "group"
    """`group`: the value of each step under the step's name. `flat`: the keys of all values in one object. `deep`: all values merged
    recursively. On a conflict the step that is later in the document wins. `concat`: the elements of all values, which are arrays, in one array, in the
    order of the steps in the document; a null adds nothing."""
    arrays: Literal["concat", "replace"] = "replace"
    """How `deep` combines two arrays at the same path."""
    body: JSON = None
    """Body of the response, instead of `merge`: a JSON template."""
    status: int | str = 200
    """Status of responses that are not errors: a number from 200 to 599, or one reference to a number, such as `"{order.$status}"`. 200 if the reference
    has no value. 204 and 304 send no body. A redirect (301, 302, 303, 307, 308) needs a `location` in `headers`."""
    headers: Headers = {}
    """Header fields of responses that are not errors: templates, or `{value: ..., when: complete}`. A field is left out if a reference in it has no value.
    A value that is one reference to a header field (`{login.$headers.set-cookie}`) or to an array gives one line for each of its values. Null removes a
    field of `defaults.response`."""
    show_failures: ShowFailures = False
    """Tell clients in the body which optional steps failed: an array of `{step, code, status, body}` under the key `failures`, or under the key that is
    given here. `status` is what the service answered, or null, `body` what it sent: JSON up to 64 KiB, the first 4,096 characters of anything else, or
    null. The key is missing if nothing failed. If unset, as in `defaults.response`."""

    cache: bool | ResponseCache | None = None
    """How clients and caches in front may keep the response: `Cache-Control`, `ETag` and 304 for clients that have it already. `true`: all computed from the answers that
    went into it. A rule sets parts of it. `false`: none of these. If unset, as in `defaults.response`, and else `true` for an endpoint with a call that has
    `cache`. Only for GET."""
    select: Select | None = None
    """Lets clients select parts of the response. If unset, every response is whole."""

    @field_validator("status")
    @classmethod
    def _is_possible(cls, status: int | str) -> int | str:
        if isinstance(status, int) and (fault := statuses.fixed_fault(status)) is not None:
            raise ValueError(fault)
        return status

    @model_validator(mode="after")
    def _one_way(self) -> "Response":
        given = self.model_fields_set
        if self.status == 204 and given & {"body", "merge", "arrays"}:
            raise ValueError("a response with status 204 has no body, so it cannot have `body`, `merge` or `arrays`")
        if self.status == 204 and any(name.lower() == "content-type" and value is not None for name, value in self.headers.items()):
            raise ValueError("a response with status 204 has no body, so it cannot have a content-type")
        if self.status == 204 and self.show_failures:
            raise ValueError("a response with status 204 has no body, so it cannot have `show_failures`")
        if self.status == 204 and self.select is not None:
            raise ValueError("a response with status 204 has no body, so there is nothing to `select`")
        if "body" in given and ("merge" in given or "arrays" in given):
            raise ValueError("a response with `body` cannot have `merge` or `arrays`")
        if self.show_failures and self.merge == "concat":
            raise ValueError("`show_failures` adds a key to the response, and with `merge: concat` the response is an array")
        if self.show_failures and "body" in given and not isinstance(self.body, dict):
            raise ValueError("`show_failures` adds a key to the response, and `body` is no object; write it as a mapping")
        return self
