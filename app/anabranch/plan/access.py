"""Compiles who may use an endpoint: the authentications that it accepts, and its `allow`."""

from collections.abc import Callable
from dataclasses import dataclass

from anabranch.config import model as config
from anabranch.config.problems import Problems
from anabranch.core.rate import Rate
from anabranch.errors import MissingExtraError
from anabranch.jsontext.frame import Frame
from anabranch.jsontext.shape import compile_filler
from anabranch.plan.condition import Condition, ConditionError, compile_condition
from anabranch.plan.known import Known
from anabranch.plan.reference import AUTH, ROOTS, Reference
from anabranch.plan.scope import Path, Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessPlan:
    """`names`: of the authentications, one of which a client needs. `allow`: None: everybody who is authenticated. `text`: of `allow`. `reads_body`: `allow` refers to the request body.
    `fill`: fills the slots of the references to the principal from its value as JSON text; None when there are none."""

    names: tuple[str, ...]
    text: str = ""
    allow: Condition | None = None
    reads_body: bool = False
    fill: Callable[[bytes, Frame], None] | None = None


def failures_of(failures: config.AuthFailures) -> Rate:
    """How many credentials of one address may be refused."""
    count, period_s = failures.rate
    return Rate(count, period_s, failures.burst or count)


def access_of(endpoint: config.Endpoint, known: Known) -> config.Access | None:
    """Who may use the endpoint, by its own rule or the default; None: everybody."""
    return config.access_of(endpoint.auth if "auth" in endpoint.model_fields_set else known.defaults.auth)


def check_access(auth: config.Auth | None, at: Path, known: Known, problems: Problems) -> None:
    """Report names that the document does not have. `auth`: as written at `at`."""
    if auth is None or auth == []:
        problems.add(at, "names no authentication", hint="write `none` if everybody may come in, or leave the key out", value=auth)
    access = config.access_of(auth)
    for index, name in enumerate([] if access is None else access.any_):
        where = at if isinstance(auth, str) else (*at, index) if isinstance(auth, list) else (*at, "any", index)
        if name not in known.auth and ("auth", name) not in known.broken and ("auth",) not in known.broken:
            if name == "none":
                problems.add(where, "`none` stands alone: with it, everybody may come in", value=name)
            else:
                problems.add(
                    where, f"unknown authentication `{name}`", value=name, hint=known.hint("authentications", "auth", name, known.auth)
                )
        elif access is not None and name in access.any_[:index]:
            problems.add(where, f"`{name}` is in the list twice", value=name)


def compile_access(endpoint: config.Endpoint, *, known: Known, scope: Scope, problems: Problems, at: Path) -> AccessPlan | None:
    """Who may use an endpoint; None: everybody. Call it when everything else has been parsed: by then it is known what refers to the principal."""
    access = access_of(endpoint, known)
    is_own = "auth" in endpoint.model_fields_set
    if is_own:
        check_access(endpoint.auth, (*at, "auth"), known, problems)
    if access is None:
        return None
    at = (*at, "auth") if is_own else ("defaults", "auth")
    allow, reads_body = None, False
    if access.allow is not None:
        template = scope.parse(access.allow, (*at, "allow"))
        for part in template:
            if isinstance(part, Reference):
                reads_body = reads_body or part.root == "body"
                if part.root not in ROOTS and part.root in endpoint.steps:
                    problems.add((*at, "allow"), f"{part} has no value yet: `allow` is decided before any step runs", value=str(part))
        if template or not access.allow:
            try:
                allow = compile_condition(access.allow, template, scope.slot)
            except (ConditionError, MissingExtraError) as error:
                problems.add((*at, "allow"), str(error), value=access.allow)
    slots = scope.slots_of(AUTH)
    return AccessPlan(
        names=tuple(access.any_), text=access.allow or "", allow=allow, reads_body=reads_body, fill=compile_filler(slots) if slots else None
    )
