"""Compiles the rules of a document: which requests are refused before anything else is done for them."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final

from anabranch.config import model as config
from anabranch.config.problems import Problems, did_you_mean
from anabranch.errors import ConditionFailed, MissingExtraError
from anabranch.plan.condition import Condition, ConditionError, compile_condition
from anabranch.plan.reference import Reference, TemplateError, parse

_KNOWN: Final = {"request": ("method", "path", "host"), "client": ("ip",)}
_ROOTS: Final = ("header", "query", *_KNOWN)
_PLAIN: Final = {
    ("request", "method"): "GET",
    ("request", "path"): "/",
    ("request", "host"): "gateway.example",
    ("client", "ip"): "192.0.2.1",
}
"""A request without header fields and parameters, for which every rule has to have a result."""


class Networks:
    """From where clients may come. `allow`: empty: from everywhere. What `deny` has is refused whatever `allow` says. A client of which no address is known is
    in no network."""

    __slots__ = ("_allow", "_deny")

    def __init__(self, allow: Iterable[str], deny: Iterable[str]) -> None:
        self._allow = tuple(map(ip_network, allow))
        self._deny = tuple(map(ip_network, deny))

    def admits(self, ip: IPv4Address | IPv6Address | None) -> bool:
        return not _is_in(ip, self._deny) and (not self._allow or _is_in(ip, self._allow))


def _is_in(ip: IPv4Address | IPv6Address | None, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    return ip is not None and any(ip in network for network in networks)


def networks_of(source: config.Document | config.Endpoint) -> Networks | None:
    """None where clients may come from everywhere."""
    return Networks(source.allow_from, source.deny_from) if source.allow_from or source.deny_from else None


@dataclass(frozen=True, slots=True)
class RulePlan:
    """`slots`: what the frame of `deny` holds, in order: (root, name)."""

    deny: Condition
    slots: tuple[tuple[str, str], ...]
    status: int
    detail: str


@dataclass(frozen=True, slots=True)
class RulesPlan:
    """`networks`: from where clients may come; None: from everywhere."""

    networks: Networks | None
    rules: tuple[RulePlan, ...]


def compile_rules(document: config.Document, problems: Problems) -> RulesPlan | None:
    """The rules of a document; None without any."""
    networks = networks_of(document)
    rules = [_rule(rule, index, problems) for index, rule in enumerate(document.rules)]
    found = tuple(rule for rule in rules if rule is not None)
    return RulesPlan(networks, found) if networks is not None or found else None


def _rule(rule: config.Rule, index: int, problems: Problems) -> RulePlan | None:
    at = ("rules", index, "deny")
    try:
        template = parse(rule.deny)
    except TemplateError as error:
        problems.add(at, str(error), value=rule.deny)
        return None
    slots: dict[tuple[str, str], int] = {}
    faults = [fault for part in template if isinstance(part, Reference) and (fault := _fault(part)) is not None]
    for message, hint in faults:
        problems.add(at, message, value=rule.deny, hint=hint)
    if faults:
        return None

    def slot_of(reference: Reference) -> int:
        name = reference.path[0]
        return slots.setdefault((reference.root, name.lower() if reference.root == "header" else name), len(slots))

    try:
        condition = compile_condition(rule.deny, template, slot_of)
    except (ConditionError, MissingExtraError) as error:
        problems.add(at, str(error), value=rule.deny)
        return None
    try:
        condition([_PLAIN.get(slot, "") for slot in slots])
    except ConditionFailed as error:
        message = f"it refuses every request without these header fields and parameters, because {error.detail}"
        hint = 'references are text, and "" if absent; ask for that first: \'{query.n} != "" && int({query.n}) > 3\''
        problems.add(at, message, value=rule.deny, hint=hint, is_warning=True)
    return RulePlan(condition, tuple(slots), rule.status, rule.detail)


def _fault(reference: Reference) -> tuple[str, str] | None:
    """What is wrong with a reference of a rule, and what to write; None when nothing is."""
    root, path = reference.root, reference.path
    if root not in _ROOTS:
        known = "{header.x}, {query.x}, {request.method}, {request.path}, {request.host} and {client.ip}"
        return f"{reference} has no value in a rule, which is decided before an endpoint is found", f"there are {known}"
    if len(path) != 1:
        return f"{reference} is not valid in a rule", f"write {{{root}.name}}"
    if root in _KNOWN and path[0] not in _KNOWN[root]:
        return f"{reference} never has a value", did_you_mean(path[0], _KNOWN[root]) or f"there is {{{root}.{_KNOWN[root][0]}}}"
    return None
