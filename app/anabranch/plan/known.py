"""What a document has, for the compilers of its parts, and what of it the models have rejected."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from anabranch.config import model as config
from anabranch.config.problems import did_you_mean
from anabranch.plan.model import PoolKind
from anabranch.plan.scope import Path
from anabranch.plan.upstream import UpstreamPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class HookCheck:
    """Result of checking a hook. `fault`: why it cannot be used; None when it can. `is_about_input`: the arguments are wrong, not the hook.

    `result_schema`: JSON Schema of the return annotation; None when there is no schema.
    """

    fault: str | None = None
    hint: str = ""
    is_about_input: bool = False
    result_schema: dict[str, Any] | None = None


CheckHook = Callable[[str, tuple[str, ...], PoolKind], HookCheck]
"""Checks a hook, given its name, the names of the step's arguments, and the kind of the pool. Plans must not import the user's code."""


def trust_hook(_hook: str, _arguments: tuple[str, ...], _kind: PoolKind) -> HookCheck:
    """Accept every hook without checking it."""
    return HookCheck()


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """`broken`: paths of the parts that the models rejected, which has been reported: references to them are not reported again."""

    defaults: config.Defaults = field(default_factory=config.Defaults)
    auth: Mapping[str, config.Authentication] = field(default_factory=dict)
    rate_limits: Mapping[str, config.RateLimit] = field(default_factory=dict)
    upstreams: Mapping[str, UpstreamPlan] = field(default_factory=dict)
    backends: Mapping[str, config.ComputeBackend] = field(default_factory=dict)
    broken: frozenset[Path] = frozenset()
    check_hook: CheckHook = trust_hook

    @property
    def credential_fields(self) -> frozenset[str]:
        """Lower-case names of the header fields with which clients prove who they are."""
        return frozenset(name.lower() for source in self.auth.values() for name in source.kind.credential_fields)

    @property
    def credential_parameters(self) -> frozenset[str]:
        """Names of the query parameters with which clients prove who they are."""
        return frozenset(name for source in self.auth.values() for name in source.kind.credential_parameters)

    def is_broken(self, *path: str | int) -> bool:
        """Whether what `path` names, or the mapping or list that it belongs to, was rejected."""
        return path in self.broken or path[:-1] in self.broken

    def hint(self, kind: str, section: str, name: str, known: Mapping[str, object]) -> str:
        """What to write instead of `name`, which `section` does not have. `kind`: what its entries are called."""
        names = [*known, *(str(path[1]) for path in self.broken if len(path) == 2 and path[0] == section and path[1] not in known)]
        return did_you_mean(name, names) or f"known {kind}: {', '.join(names) or 'none'}"
