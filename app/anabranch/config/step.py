"""Steps in the document: what all kinds have, and one model for each kind. A step is of the kind whose key it has."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SerializeAsAny, WithJsonSchema, model_validator

from anabranch.config.base import (
    ALL,
    JSON,
    ForwardedHeader,
    HeaderName,
    HeaderValue,
    JSONName,
    JSONPath,
    Model,
    Name,
    Scalar,
    URLWithQuery,
)
from anabranch.config.cache import Cache
from anabranch.config.elements import Batch, Into, Lists
from anabranch.config.problems import did_you_mean
from anabranch.config.units import Count, Duration

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
Encoding = Literal["json", "form", "multipart", "text", "xml"]


class Step(Model):
    """What every step can have: how long it may take, what happens when it fails, and how its value is shaped."""

    noun: ClassVar[str] = "step"
    """What a message calls a step of this kind."""
    described: ClassVar[str] = "Computed."
    """What the API description says of a value that no single service gives."""
    has_answer: ClassVar[bool] = False
    """Whether a service answers it, with a status and header fields."""
    templates: ClassVar[frozenset[str]] = frozenset({"when", "each", "distinct", "batch"})
    """The keys that are templates. Every string in them may contain references."""

    when: str | None = None
    """Run the step only if this condition holds: an expression in CEL, with references in braces, such as
    `{flight.cancelled} == false`. Otherwise the step is left out, and with it the steps that refer to it; the response stays complete."""
    needs: list[Name] = []
    """Names of steps that have to be finished before this one begins, whatever became of them. A step waits for every step that it refers to anyway."""
    fallback: Name | None = None
    """The name of a step that runs only when this one has failed. Its value stands here then, as that step has shaped it, and the response is complete. That
    step has no key of its own in the response."""
    timeout_s: Duration | None = Field(None, alias="timeout")
    """Maximum duration of the whole step, including waiting and retries. If unset, the time left until the endpoint's deadline."""
    required: bool = False
    """If true, the response is an error when this step fails. Otherwise `default` or null is used as its value."""
    default: JSON = None
    """Value of the step when it fails or is left out. If unset, null when it fails; when it is left out, its key is missing."""
    hidden: bool = False
    """Leave the step out of the response. Other steps can still refer to it."""
    each: str | None = None
    """Run the step once for each element of this array, a reference such as `{orders.items}`; the templates of the step know the element as `{item}`. The
    value is the array of the results, in the order of the elements. A failed element has `default` or null, and the response is incomplete then."""
    at_once: Count = Field(8, ge=1, le=1000)
    """Maximum concurrent runs of a step with `each`."""
    max_items: Count = Field(100, ge=1, le=100_000)
    """Maximum elements of `each`. The step fails if there are more, or uses the first ones with `truncate`."""
    truncate: bool = False
    """Use the first `max_items` elements if there are more. The response is incomplete then."""
    distinct: str | None = None
    """Elements for which this template gives the same share one run: `"{item.product_id}"`."""
    batch: Batch | None = None
    """Run a step with `each` once for many elements."""
    join: Into | None = None
    """Put the results of a step with `each` into the elements that they belong to. The step is hidden then."""
    target: JSONPath | None = None
    """Use only the value at this path of the answer, and discard the rest."""
    pick: list[JSONPath] | None = Field(None, min_length=1)
    """Keep only these paths. A path applies to every element of an array: `orders.sku` is the `sku` of every order. A name with a dot or another
    special character stands in double quotes: `'"@odata.count"'`."""
    drop: list[JSONPath] | None = Field(None, min_length=1)
    """Remove these paths."""
    rename: dict[JSONPath, JSONName] | None = None
    """New names for members: `{old path: new name}`. Only the last part of the path is renamed: `{a.b: c}` turns `a.b` into `a.c`."""
    wrap: str | None = None
    """Put the value into an object, under this key."""

    @model_validator(mode="before")
    @classmethod
    def _has_a_kind(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and len(kinds := kinds_of(data)) != 1:
            names = " or ".join(f"`{key}` (a {model.noun})" for key, model in STEPS.items())
            raise ValueError(f"a step needs either {names}{', and not several' if kinds else _misspelt(data)}")
        return data

    @model_validator(mode="after")
    def _one_selection(self) -> "Step":
        if self.pick is not None and self.drop is not None:
            raise ValueError("a step can have either `pick` or `drop`, not both")
        return self

    @model_validator(mode="after")
    def _of_elements(self) -> "Step":
        given = self.model_fields_set
        if self.each is None:
            for key in ("at_once", "max_items", "truncate", "distinct", "batch", "join"):
                if key in given and not (key == "join" and isinstance(self, JoinStep)):
                    raise ValueError(f"`{key}` needs `each`, the array that the step runs for")
        if self.batch is not None and "at_once" in given:
            raise ValueError("`at_once` of a step with `batch` stands in `batch`")
        if self.batch is not None and self.distinct is not None:
            raise ValueError("`batch` asks for equal keys once; remove `distinct`")
        if self.join is not None and self.wrap is not None:
            raise ValueError("`wrap` has no effect with `join`: each result stands under the name that `as` gives it")
        return self

    @property
    def is_hidden(self) -> bool:
        """Whether it has no key of its own in the response."""
        return self.hidden or isinstance(self.join, Into)

    @property
    def stand_in_places(self) -> list[tuple[str, tuple[str | int, ...]]]:
        """The names of the steps whose values may stand here, each with its place in this step."""
        return [] if self.fallback is None else [(self.fallback, ("fallback",))]

    @property
    def stand_ins(self) -> list[str]:
        """Their names."""
        return [name for name, _ in self.stand_in_places]

    @property
    def has_default(self) -> bool:
        """Whether a default stands in for its value. With `each` the default stands in for single results."""
        return "default" in self.model_fields_set and self.each is None

    @classmethod
    def explain_extra(cls, key: str) -> str | None:
        """What is wrong with a key that this kind does not have but another one has; None for a key that no step has."""
        is_known = any(key in (field.alias or name for name, field in model.model_fields.items()) for model in STEPS.values())
        return f"a {cls.noun} cannot have `{key}`" if is_known else None


class QueryValue(Model):
    """A value in the query of a call, with what happens to an array."""

    value: Scalar | list[Scalar]
    """The value: a template, or several."""
    style: Literal["repeat", "comma"] = "repeat"
    """How an array is written: `repeat`: the name for each element (`id=1&id=2`); `comma`: once, with commas between (`id=1,2`)."""
    when_empty: Literal["skip", "leave_out", "send"] = "skip"
    """What an array without elements does. `skip`: the step is left out, because a filter by nothing must never become no filter. `leave_out`: the
    name is left out. `send`: the name is sent without a value."""


class WorkStep(Step):
    """A step that gets its value from somewhere, which may be something else than what the document expects."""

    templates: ClassVar[frozenset[str]] = Step.templates | {"expect"}

    expect: str | None = None
    """A condition on the answer before it is shaped, in CEL: `{value.errors} == null`. `{value}` is the answer's body, `{$status}` its status,
    `{$headers.etag}` one of its header fields. If it does not hold, the step fails."""


class Selection(Model):
    """What is taken from an HTML page. A CSS selector in its place is the text of the first element that it matches."""

    shorthand: ClassVar[str | None] = "css"

    css: str = Field(min_length=1)
    """Which elements: a CSS selector. Inside another `select`, elements inside of that one; `:scope` is that one itself."""
    attr: str | None = Field(None, min_length=1)
    """Take the value of this attribute, as it is written, in place of the text. Null for an element without it."""
    base: URLWithQuery | None = None
    """The public address of the page, against which a relative URL in the attribute is made absolute. A `base` element of the page counts. If unset,
    the attribute stays as it is written."""
    is_many: bool = Field(False, alias="many")
    """Take all elements, as an array, instead of the first one. Without it, null if there is no such element."""
    select: "dict[str, str | Selection] | None" = Field(None, min_length=1)
    """Make an object of each element, by selectors inside of it."""


def _all_in_list(value: Any) -> Any:
    return [value] if value == ALL else value


def _forwarded_names(value: list[str]) -> list[str]:
    if "_explain" in value:
        raise ValueError("`_explain` is for the gateway, and never forwarded")
    if "" in value:
        raise ValueError("the name of a query parameter must not be empty")
    if ALL in value and len(value) > 1:
        raise ValueError("`*` stands for all parameters, so the names beside it have no effect")
    return value


ForwardedQuery = Annotated[
    list[str],
    BeforeValidator(_all_in_list),
    AfterValidator(_forwarded_names),
    WithJsonSchema({"anyOf": [{"const": ALL}, {"type": "array", "items": {"type": "string", "minLength": 1}}]}),
]
"""Names of query parameters, decoded; `*` for all."""


class CallStep(WorkStep):
    """A call to an upstream."""

    noun: ClassVar[str] = "call"
    has_answer: ClassVar[bool] = True
    templates: ClassVar[frozenset[str]] = WorkStep.templates | {"path", "query", "headers", "body", "until", "cache"}

    upstream: str
    """The name of the upstream."""
    method: Method | None = None
    """Method of the call. If unset, GET for a step without a body in an endpoint with several steps, otherwise the endpoint's method. A step
    with a body in a GET endpoint uses POST."""
    path: str
    """Path of the call: a template. The value of a reference is percent-encoded as one segment."""
    query: dict[str, QueryValue | Scalar | list[Scalar]] = {}
    """Query of the call: templates. An array repeats the name for each element; one without elements leaves the step out. A parameter that the client did
    not send is left out."""
    headers: dict[HeaderName, HeaderValue] = {}
    """Header fields of the call: templates. They override the upstream's."""
    forward_headers: list[ForwardedHeader] | None = None
    """Header fields forwarded from the client's request, in place of the upstream's `forward_headers`; `[]` forwards none. If unset, the
    upstream's."""
    forward_query: ForwardedQuery = []
    """Parameters of the client's query that are forwarded as they were sent, repeated ones too; `"*"`: all. They stand before those of `query`, and
    a name in `query` or in the query of `path` wins. `_explain`, and the parameter of `select` with `"*"`, are never forwarded."""
    body: JSON = None
    """Body of the call: a JSON template. `"{body}"` forwards the client's body."""
    encode: Encoding = "json"
    """How the body is written. `json`. `form`: an object as application/x-www-form-urlencoded; an array repeats the name, null is left out.
    `multipart`: an object as multipart/form-data (RFC 7578), whose values may be files of the client's body. `text`: one value as text/plain.
    `xml`: an object with one member, the root element; `@name` is an attribute, `#text` the text beside attributes or elements, and an array repeats
    the element. Sets the content type, unless `headers` has one."""
    errors: Literal["problem", "pass"] = "problem"
    """What the client gets when this required step's service answers with a 4xx or 5xx status. `problem`: a problem document of the gateway. `pass`: the
    service's status, body and content type. Failures without such an answer are always a problem document."""
    success: list[Annotated[int, Field(ge=200, le=599)]] | None = Field(None, min_length=1)
    """The statuses of good answers, such as `[200, 404]`. The body of such an answer is the value. If unset, every 2xx."""
    counts_as_failure: bool = False
    """An answer that `expect` refuses is a failure of the upstream: it is retried as a lost connection is, and the breaker counts it."""
    until: str | None = None
    """Repeat the call until this condition holds, which is written like `expect`: `{value.version} >= 3`. The step fails when that takes longer than its
    `timeout`, or than the endpoint's. Only for calls that may be sent more than once."""
    every_s: Duration | None = Field(None, alias="every")
    """The pause between an answer for which `until` does not hold, and the next call. If unset, 500ms."""
    decode: Literal["json", "text", "ndjson", "form", "xml", "html", "bytes"] = "json"
    """What the body of the answer is read as, before it is shaped. `text`: a string. `ndjson`: an array of the lines' values. `form`: an object. `xml`:
    an object, by the convention in [Formats](formats.md). `html`: an object of what `select` finds. `bytes`: a string in base64."""
    select: dict[str, str | Selection] | None = Field(None, min_length=1)
    """With `decode: html`: the members of the value, each with the CSS selector of what it is."""
    arrays: list[JSONPath] | None = Field(None, min_length=1)
    """With `decode: xml`: paths of elements that are always an array, even if there is only one or none, such as `rss.channel.item`."""
    idempotent: bool | None = None
    """Whether the call may be sent more than once. If unset, GET, HEAD, PUT and DELETE calls may."""
    coalesce: bool = False
    """Identical GET calls that run at the same time share one exchange."""
    cache: bool | Cache | None = None
    """Cache the answers of a GET or HEAD call. `true`: with the default rule; `false`: never. If unset, `defaults.cache`; a rule here replaces the whole default."""
    stale_if_error_s: Duration | None = Field(None, alias="stale_if_error")
    """If a GET call fails, use its last good answer, unless that is older than this. The response is marked with `Gateway-Complete: ?0`,
    `Age` and `Cache-Status`. With `cache`, an answer is used for this long after it was fresh, where the service does not say how long."""

    @model_validator(mode="after")
    def _of_answers(self) -> "CallStep":
        if self.counts_as_failure and self.expect is None:
            raise ValueError("`counts_as_failure` needs `expect`, the condition on the answer")
        if self.every_s is not None and self.until is None:
            raise ValueError("`every` needs `until`, the condition that ends the repetition")
        return self


class ComputeStep(WorkStep):
    """A computation by a Python function."""

    noun: ClassVar[str] = "compute step"
    templates: ClassVar[frozenset[str]] = WorkStep.templates | {"input"}

    compute: str
    """The function, as `module:function`."""
    input: dict[str, JSON] | None = None
    """Arguments of the function: templates."""
    executor: Literal["thread", "process", "dask"] | None = None
    """Where the function runs: `thread` (short functions, or functions that release the GIL), `process` (CPU-bound Python), `dask` (a
    cluster). If unset, the kind of its `pool`, or else `thread`."""
    pool: Name | None = None
    """Name of one of the document's `compute_backends`. If unset, the first one of the executor's kind, or a built-in one for `thread` and
    `process`."""
    concurrency: Count | None = Field(None, ge=1)
    """Maximum concurrent jobs of this step in its pool. Further jobs wait without blocking the pool's other steps. If unset, only the pool's
    limit applies."""


class FirstStep(Step):
    """The first good one of several steps, which run at once."""

    noun: ClassVar[str] = "step with `any`"
    described: ClassVar[str] = "The first good one of several answers."
    has_answer: ClassVar[bool] = True

    any_: list[Name] = Field(alias="any", min_length=2)
    """Names of the steps. They begin together; the value of the first one that has not failed stands here, and the others are cancelled. They have no keys of
    their own in the response. A step to which something else refers as well runs by itself, and is not cancelled."""

    @model_validator(mode="after")
    def _runs_once(self) -> "FirstStep":
        if self.each is not None:
            raise ValueError("a step with `any` runs once: give `each` to the steps that it names")
        return self

    @property
    def stand_in_places(self) -> list[tuple[str, tuple[str | int, ...]]]:
        return [*((name, ("any", index)) for index, name in enumerate(self.any_)), *super().stand_in_places]


class JoinStep(Step):
    """A join of two lists that are there already."""

    noun: ClassVar[str] = "join"
    described: ClassVar[str] = "Two lists joined into one."
    templates: ClassVar[frozenset[str]] = Step.templates | {"join"}

    join: Lists  # type: ignore[assignment]  # the key means something else where results of `each` are joined
    """The lists, and how their elements belong together."""

    @model_validator(mode="after")
    def _runs_once(self) -> "JoinStep":
        if self.each is not None:
            raise ValueError("a join has an effect on every element already: remove `each`")
        return self


STEPS: Final[dict[str, type[Step]]] = {"upstream": CallStep, "compute": ComputeStep, "any": FirstStep, "join": JoinStep}
"""The kinds of steps, by the key that says which one a step is."""


def kinds_of(data: Mapping[Any, Any]) -> list[str]:
    """The keys that say of which kinds a step is. `join` says so only where no other key does: it is also what happens to the results of `each`."""
    kinds = [key for key in STEPS if key in data]
    return [key for key in kinds if key != "join" or len(kinds) == 1]


def step_model(data: Any) -> type[Step]:
    """The model of the step in `data`; `Step` itself, which accepts nothing, when it is of no kind or of several."""
    kinds = kinds_of(data) if isinstance(data, Mapping) else []
    return STEPS[kinds[0]] if len(kinds) == 1 else Step


def _misspelt(data: Mapping[Any, Any]) -> str:
    """The end of a sentence that says which key of a step without a kind was probably meant to name it; "" for none."""
    known = {key for model in STEPS.values() for name, field in model.model_fields.items() for key in (field.alias, name)}
    hints = {key: hint for key in data if key not in known and (hint := did_you_mean(str(key), STEPS))}
    return next((f", not `{key}`; {hint}" for key, hint in hints.items()), "")


def _of_its_kind(data: Any) -> Any:
    return data if isinstance(data, Step) else step_model(data).model_validate(data)


AnyStep = Annotated[SerializeAsAny[Step], BeforeValidator(_of_its_kind)]
"""A step of any kind."""
