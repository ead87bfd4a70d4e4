"""Compiles the rate limits of an endpoint: what each counts, by what, and when it can be decided."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from anabranch.config import model as config
from anabranch.config.problems import Problems
from anabranch.config.units import format_frequency
from anabranch.core.rate import Rate
from anabranch.plan.known import Known
from anabranch.plan.reference import AUTH, Reference, is_whole
from anabranch.plan.scope import Path, Scope

Source = Literal["client", "auth", "header", "path", "query", "cookie"]
_QUOTA: Final = "-quota"


@dataclass(frozen=True, slots=True)
class KeyPlan:
    """What requests are counted by. `index`: of a parameter in the path."""

    source: Source
    name: str
    index: int = -1


@dataclass(frozen=True, slots=True)
class PolicyPlan:
    """One of the counts of a limit. `shown`: its name for clients. `count`, `window_s`: as written."""

    shown: str
    rate: Rate
    count: int
    window_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitPlan:
    """One limit, for one endpoint. `policies`: its rate, its quota. `cost`: a number, or the slot of the value that says it. `stage`: when everything is there that it
    needs. `needs_principal`: it counts by who the client is."""

    name: str
    policies: tuple[PolicyPlan, ...]
    by: tuple[KeyPlan, ...]
    is_shared: bool
    admits_when_away: bool
    cost: int
    cost_slot: int | None
    stage: Literal["head", "parameters", "body"]
    is_shown: bool
    text: str

    @property
    def needs_principal(self) -> bool:
        return any(key.source == "auth" for key in self.by)

    @property
    def needs_address(self) -> bool:
        return any(key.source == "client" for key in self.by)


def check_limits(document: config.Document, known: Known, problems: Problems) -> None:
    """Report what is wrong with the limits, whichever endpoints name them."""
    _check_names(document.defaults.rate_limits, ("defaults", "rate_limits"), known, problems)
    used = {name for endpoint in document.endpoints for name in _names_of(endpoint, document.defaults)}
    for name, limit in document.rate_limits.items():
        at = ("rate_limits", name)
        if limit.store == "shared" and document.store is None and not known.is_broken("store"):
            problems.add((*at, "store"), "the document has no shared store", hint="add `store: {redis: {url: ...}}`", value=limit.store)
        if name not in used and not known.is_broken("endpoints"):
            problems.add(at, f"no endpoint names the limit `{name}`, so it has no effect", is_warning=True, at_key=True)
        if limit.burst is not None and isinstance(limit.cost, int) and limit.cost > limit.burst:
            problems.add((*at, "cost"), f"no request is ever admitted: each costs {limit.cost}, and the burst is {limit.burst}")


def _names_of(endpoint: config.Endpoint, defaults: config.Defaults) -> list[str]:
    return config.limits_of(endpoint.rate_limits if "rate_limits" in endpoint.model_fields_set else defaults.rate_limits)


def _check_names(limits: config.RateLimits | None, at: Path, known: Known, problems: Problems) -> None:
    names = config.limits_of(limits)
    for index, name in enumerate(names):
        where = at if isinstance(limits, str) else (*at, index)
        if name not in known.rate_limits and not known.is_broken("rate_limits", name):
            if name == "none":
                problems.add(where, "`none` stands alone: with it, there is no limit", value=name)
            else:
                hint = known.hint("limits", "rate_limits", name, known.rate_limits)
                problems.add(where, f"unknown limit `{name}`", value=name, hint=hint)
        elif name in names[:index]:
            problems.add(where, f"`{name}` is in the list twice", value=name)


def compile_limits(
    endpoint: config.Endpoint, path_names: list[str], *, known: Known, scope: Scope, problems: Problems, at: Path
) -> tuple[LimitPlan, ...]:
    """The limits of an endpoint. `path_names`: the parameters of its path, in order."""
    if "rate_limits" in endpoint.model_fields_set:
        at = (*at, "rate_limits")
        _check_names(endpoint.rate_limits, at, known, problems)
    else:
        at = ("defaults", "rate_limits")
    found = []
    for name in _names_of(endpoint, known.defaults):
        limit = known.rate_limits.get(name)
        if limit is not None:

            def report(message: str, name: str = name) -> None:
                problems.add(at, f"{endpoint.method} {endpoint.path} cannot have the limit `{name}`: {message}")

            found.append(_limit(name, limit, path_names, known, scope, report))
    return tuple(found)


def _limit(
    name: str, limit: config.RateLimit, path_names: list[str], known: Known, scope: Scope, report: Callable[[str], None]
) -> LimitPlan:
    cost_slot, stage = _cost(limit, scope, report)
    return LimitPlan(
        name=name,
        policies=_policies(limit, name if known.defaults.public_names else str(list(known.rate_limits).index(name) + 1)),
        by=tuple(_key(by, path_names, scope, report) for by in limit.by),
        is_shared=limit.store == "shared",
        admits_when_away=limit.when_store_is_away == "allow",
        cost=limit.cost if isinstance(limit.cost, int) else 1,
        cost_slot=cost_slot,
        stage=stage,
        is_shown=limit.headers,
        text=describe_limit(name, limit),
    )


def _policies(limit: config.RateLimit, shown: str) -> tuple[PolicyPlan, ...]:
    found = []
    if limit.rate is not None:
        count, period_s = limit.rate
        found.append(PolicyPlan(shown, Rate(count, period_s, limit.burst or count), count, period_s))
    if limit.quota is not None:
        count, period_s = limit.quota
        found.append(PolicyPlan(shown + _QUOTA if found else shown, Rate(count, period_s, count, is_quota=True), count, period_s))
    return tuple(found)


def _key(by: str, path_names: list[str], scope: Scope, report: Callable[[str], None]) -> KeyPlan:
    source, _, name = by.partition(".")
    index = -1
    if source == "auth" and not scope.has_principal:
        report(f"`{by}` never has a value, since the endpoint has no `auth`")
    elif source == "path":
        if name in path_names:
            index = path_names.index(name)
        else:
            report(f"its path has no parameter `{name}`")
    return KeyPlan(source, name.lower() if source == "header" else name, index)  # type: ignore[arg-type]  # the model has checked it


def _cost(limit: config.RateLimit, scope: Scope, report: Callable[[str], None]) -> tuple[int | None, Literal["head", "parameters", "body"]]:
    """The slot of the value that is the cost of a request, and when it is known."""
    if not isinstance(limit.cost, str):
        return None, "head"
    template = scope.parse_as(limit.cost, report)
    if not template:
        return None, "head"
    if not is_whole(template):
        report("`cost` must be a number, or one reference such as `{query.n}`")
        return None, "head"
    (reference,) = template
    assert isinstance(reference, Reference)
    if reference.root not in ("path", "query", "header", "cookie", "body", AUTH):
        report(f"{reference} has no value yet: limits are decided before any step runs")
        return None, "head"
    return scope.slot(reference), "body" if reference.root == "body" else "parameters"


def describe_limit(name: str, limit: config.RateLimit) -> str:
    """For explain."""
    words = []
    if limit.rate is not None:
        words.append(f"{format_frequency(limit.rate)}, {limit.burst or limit.rate.number} at once")
    if limit.quota is not None:
        words.append(f"quota {format_frequency(limit.quota)}")
    words.append(f"by {', '.join(limit.by)}" if limit.by else "all together")
    if limit.cost is not None:
        words.append(f"cost {limit.cost}")
    words.append(f"shared, {limit.when_store_is_away} when the store is away" if limit.store == "shared" else "in memory")
    return f"{name}: {'; '.join(words)}"
