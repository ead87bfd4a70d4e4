"""Compiles how clients and caches in front may keep the responses of an endpoint: what `Cache-Control` says of them, and by what they differ.

**Source:** RFC 9111 sections 3.5 and 5.2.2; RFC 9110 section 12.5.5 (`Vary`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from anabranch.config import model as config
from anabranch.config.base import ALL
from anabranch.config.problems import Problems
from anabranch.plan.forwarding import CONDITIONS, CREDENTIALS, PROPAGATED
from anabranch.plan.kinds.call import CallPlan
from anabranch.plan.known import Known
from anabranch.plan.model import ParameterPlan, ResponseField, ResponsePlan
from anabranch.plan.reference import AUTH
from anabranch.plan.scope import Path, Scope
from anabranch.plan.step import StepDraft

FRESHNESS: Final = frozenset({"cache-control", "expires"})
"""Fields by which a document says itself how long responses are fresh."""
_KEPT: Final = 200
_NOT_OF_THE_ANSWER: Final = CONDITIONS.union(name.decode() for name in PROPAGATED)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReusePlan:
    """Of complete responses of status 200. Durations in seconds.

    `max_age_s`, `shared_max_age_s`: as the document says; None: computed, and as `max_age_s`. `private_because`: why nobody but the client may keep them; "": the answers in
    them decide. `is_public`: shared caches may keep them even if the client is known. `is_for_all`: the document says so, whatever the answers say. `has_control`:
    `Cache-Control` is computed; False: the document has a field of its own. `stand_ins`: names of the steps whose answers count only where they stand for
    another one. `vary`: names of the request's header fields by which responses differ.
    """

    max_age_s: int | None = None
    shared_max_age_s: int | None = None
    stale_while_revalidate_s: int | None = None
    stale_if_error_s: int | None = None
    is_immutable: bool = False
    private_because: str = ""
    is_public: bool = False
    is_for_all: bool = False
    has_control: bool = True
    stand_ins: frozenset[str] = frozenset()
    vary: tuple[str, ...] = ()

    windows: tuple[str, ...] = field(init=False)
    """The directives that follow those of freshness."""
    fixed: bytes | None = field(init=False)
    """The value of Cache-Control; None when it depends on the answers."""
    words: Mapping[bool, tuple[bytes, bytes, bytes]] = field(init=False)
    """By whether a response is private: what Cache-Control has before and after the seconds of its freshness, and its value without any."""

    def __post_init__(self) -> None:
        stale = (("stale-while-revalidate", self.stale_while_revalidate_s), ("stale-if-error", self.stale_if_error_s))
        windows = [f"{name}={value}" for name, value in stale if value is not None] + (["immutable"] if self.is_immutable else [])
        object.__setattr__(self, "windows", tuple(windows))
        object.__setattr__(self, "words", {is_private: self._words(is_private=is_private) for is_private in (False, True)})
        is_known = self.max_age_s is not None and (self.is_private or self.is_for_all)
        object.__setattr__(self, "fixed", self.control(0, is_private=self.is_private) if is_known else None)

    @property
    def is_private(self) -> bool:
        return bool(self.private_because)

    def control(self, fresh_s: int, *, is_private: bool) -> bytes:
        """The value of Cache-Control. `fresh_s`: how long the answers are fresh, in whole seconds; 0: they have to be validated."""
        before, after, stale = self.words[is_private]
        lifetime_s = fresh_s if self.max_age_s is None else self.max_age_s
        return b"%b%d%b" % (before, lifetime_s, after) if lifetime_s else stale

    def _words(self, *, is_private: bool) -> tuple[bytes, bytes, bytes]:
        scope = "private, " if is_private else "public, " if self.is_public else ""
        shared_s = None if is_private else self.shared_max_age_s
        after = "".join(f", {word}" for word in (*(() if shared_s is None else (f"s-maxage={shared_s}",)), *self.windows))
        may_be_used = self.max_age_s is not None or shared_s is not None
        stale = f"{scope}max-age=0{after}" if may_be_used else f"{scope}no-cache"
        return f"{scope}max-age=".encode(), after.encode(), stale.encode()


def check_default_reuse(defaults: config.DefaultResponse, problems: Problems) -> None:
    """Report what contradicts the rule for all responses."""
    if defaults.cache:
        for name in defaults.headers:
            if name.lower() in FRESHNESS:
                _report_twice(("defaults", "response", "headers", name), "defaults.response.cache", problems)


def add_reuse(
    response: ResponsePlan,
    endpoint: config.Endpoint,
    drafts: Sequence[StepDraft],
    parameters: Sequence[ParameterPlan],
    stand_ins: Iterable[str],
    *,
    access: config.Access | None,
    known: Known,
    scope: Scope,
    problems: Problems,
    at: Path,
) -> ResponsePlan:
    """The response with what it says of its reuse, where it says something. Call it when everything else has been parsed."""
    calls = [draft.operation for draft in drafts if isinstance(draft.operation, CallPlan)]
    own, default = endpoint.response.cache, known.defaults.response.cache
    where = (*at, "response", "cache")
    written = own if own is not None else default if default is not None else any(map(_is_cached, calls))
    if not written:
        return response
    hindrance = _hindrance(endpoint, response)
    if hindrance:
        if own is not None:
            problems.add(where, hindrance)
        return response
    fields = list(response.fields)
    if own is not None:
        for name in endpoint.response.headers:
            if name.lower() in FRESHNESS and endpoint.response.headers[name] is not None:
                _report_twice((*at, "response", "headers", name), "cache", problems)
        fields = [field for field in fields if field.name.decode() not in FRESHNESS]
    names = access.any_ if access is not None else []
    credentials = [field for name in names if name in known.auth for field in known.auth[name].kind.credential_fields]
    private_because = _private_because(response, calls, parameters, has_access=access is not None)
    rule = config.ResponseCache() if written is True else written
    is_for_all = own is not None and rule.scope == "public"
    if is_for_all and scope.slots_of(AUTH):
        hint = "remove `scope`; then only the client itself may keep them"
        problems.add((*where, "scope"), "responses that depend on who the client is cannot be public", hint=hint)
    if rule.scope == "private" or (private_because and not is_for_all):
        private_because = private_because or "the document says so"
        if own is not None and rule.shared_max_age_s is not None:
            message = f"`shared_max_age` has no effect: only the client may keep the responses, because {private_because}"
            problems.add((*where, "shared_max_age"), message, hint="set `scope: public` if they are the same for everybody")
    else:
        private_because = ""
    vary = _vary(calls, parameters, credentials)
    return replace(
        response,
        fields=tuple(_with_vary(fields, vary)),
        reuse=ReusePlan(
            max_age_s=_seconds(rule.max_age_s),
            shared_max_age_s=None if private_because else _seconds(rule.shared_max_age_s),
            stale_while_revalidate_s=_seconds(rule.stale_while_revalidate_s),
            stale_if_error_s=_seconds(rule.stale_if_error_s),
            is_immutable=rule.immutable,
            private_because=private_because,
            is_public=rule.scope == "public" and not private_because,
            is_for_all=is_for_all,
            has_control=not any(field.name.decode() in FRESHNESS for field in fields),
            stand_ins=frozenset(stand_ins),
            vary=vary,
        ),
    )


def _hindrance(endpoint: config.Endpoint, response: ResponsePlan) -> str:
    """Why no response can be kept; "" when some can."""
    if endpoint.method != "GET":
        return f"only responses to GET can be kept, and this is a {endpoint.method}"
    if response.status_of is None and response.status != _KEPT:
        return f"only responses of status 200 can be kept, and these have {response.status}"
    return ""


def _is_cached(call: CallPlan) -> bool:
    return call.caching is not None and not call.caching.rule.is_fallback


def _report_twice(at: Path, other: str, problems: Problems) -> None:
    message = f"`{other}` says already how long responses may be kept"
    problems.add(at, message, hint="remove one of them", at_key=True)


def _private_because(response: ResponsePlan, calls: Sequence[CallPlan], parameters: Sequence[ParameterPlan], *, has_access: bool) -> str:
    """Why shared caches must not keep the responses; "" when nothing is known of it. They may ignore `Vary`, so it does not suffice."""
    if has_access:
        return "the endpoint has `auth`"
    if any(field.name == b"set-cookie" for field in response.fields):
        return "they set a cookie"
    if any(parameter.location == "cookie" for parameter in parameters):
        return "they depend on a cookie"
    of_client = [parameter.name for parameter in parameters if parameter.location == "header"]
    of_client += [name.lower() for call in calls for name in call.forward_headers]
    found = next((name for name in of_client if name in CREDENTIALS), None)
    return "" if found is None else f"they depend on the client's {found}"


def _vary(calls: Sequence[CallPlan], parameters: Sequence[ParameterPlan], credentials: Sequence[str]) -> tuple[str, ...]:
    names = [name.lower() for name in credentials]
    names += [parameter.name for parameter in parameters if parameter.location == "header"]
    names += ["cookie" for parameter in parameters if parameter.location == "cookie"]
    names += [name.lower() for call in calls for name in call.forward_headers]
    names += [name.lower() for call in calls if call.caching is not None for name in call.caching.vary_on if "{" not in name]
    if ALL in names:
        return (ALL,)
    return tuple(dict.fromkeys(name.title() for name in names if name not in _NOT_OF_THE_ANSWER))


def _with_vary(fields: Sequence[ResponseField], vary: tuple[str, ...]) -> list[ResponseField]:
    """The fields with these names in `Vary`, besides those that the document has there."""
    if not vary:
        return list(fields)
    own = next((field for field in fields if field.name == b"vary" and field.value is not None and field.when == "always"), None)
    if own is None or own.value is None:
        return [*fields, ResponseField(name=b"vary", when="always", value=", ".join(vary).encode())]
    known = {name.strip().lower() for name in own.value.decode("latin-1").split(",")}
    if ALL in known:
        return list(fields)
    more = [name for name in vary if name.lower() not in known]
    merged = replace(own, value=b", ".join([own.value, *(name.encode() for name in more)]))
    return [merged if field is own else field for field in fields]


def _seconds(duration_s: float | None) -> int | None:
    return None if duration_s is None else int(duration_s)


def describe_reuse(plan: ReusePlan) -> str:
    """For people: how responses may be kept."""
    words = []
    if not plan.has_control:
        words.append("for as long as `headers` says")
    elif plan.max_age_s is not None:
        words.append(f"for {plan.max_age_s}s")
    else:
        words.append("for as long as all answers in them are fresh")
    if plan.shared_max_age_s is not None:
        words.append(f"by shared caches for {plan.shared_max_age_s}s")
    if plan.private_because:
        words.append(f"by the client alone because {plan.private_because}")
    elif plan.is_public:
        words.append("by everybody")
    words += [window.replace("=", " ") for window in plan.windows]
    if plan.vary:
        words.append(f"vary by {', '.join(plan.vary)}")
    return ", ".join(words)
