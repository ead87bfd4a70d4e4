"""Limits in the document: how often clients may send requests, from where, and which requests are refused by rules."""

import re
from ipaddress import ip_network
from typing import Annotated, ClassVar, Final, Literal

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from anabranch.config.base import Model, Name
from anabranch.config.units import Count, PerPeriod

_KEY: Final = re.compile(r"client\.ip|auth\.(?:sub|name)|(?:header|path|query|cookie)\.[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")


def _counted_by(value: str) -> str:
    if not _KEY.fullmatch(value):
        raise ValueError(
            "requests are counted by `client.ip`, `auth.sub`, `auth.name`, or by `header.`, `path.`, `query.` or `cookie.` and a name, without braces"
        )
    return value


CountedBy = Annotated[
    str,
    AfterValidator(_counted_by),
    WithJsonSchema({"type": "string", "pattern": f"^({_KEY.pattern})$", "examples": ["client.ip", "auth.sub", "header.x-tenant"]}),
]


class RateLimit(Model):
    """How many requests are admitted: by a rate, by a quota, or by both."""

    rate: PerPeriod | None = None
    """Requests in a time, such as `100/1m`. What has been used comes back evenly (the generic cell rate algorithm), so that there are no windows at whose
    edges twice as many pass."""
    burst: Count | None = Field(None, ge=1)
    """Requests that may come at once. If unset, the number of `rate`."""
    quota: PerPeriod | None = None
    """Requests in a window of the calendar in UTC, such as `10000/1d`: all of them may be used at once, and all come back at the end of the window. Windows are
    counted from 1970-01-01, so that days begin at midnight."""
    by: list[CountedBy] = []
    """What is counted apart: `client.ip` (an IPv6 address by its /64), `auth.sub`, `auth.name`, `header.x`, `path.x`, `query.x`, `cookie.x`, or several of these
    together. Requests without a value are counted together. If empty, all requests are."""
    store: Literal["memory", "shared"] = "memory"
    """`memory`: each worker process counts for itself, against its share of the limit: divided by the number of workers, but at least 1. `shared`: all gateways
    count together, in the document's `store`."""
    when_store_is_away: Literal["allow", "deny"] = "allow"
    """What happens to requests while the shared store is away: `allow` admits them uncounted, `deny` answers 503."""
    cost: str | int | None = None
    """What a request counts: a whole number, or a reference such as `"{query.n}"`. What is not a number, or less than 1, counts as 1. A request that costs more than
    the limit can ever admit is rejected. If unset, 1."""
    headers: bool = True
    """Tell clients in `RateLimit` and `RateLimit-Policy`."""

    @model_validator(mode="after")
    def _has_an_effect(self) -> "RateLimit":
        if self.rate is None and self.quota is None:
            raise ValueError("a limit needs `rate`, `quota` or both")
        if self.burst is not None and self.rate is None:
            raise ValueError("`burst` has no effect without `rate`: all of a quota may be used at once")
        if "when_store_is_away" in self.model_fields_set and self.store == "memory":
            raise ValueError("`when_store_is_away` has no effect with `store: memory`, which is never away")
        if len(set(self.by)) < len(self.by):
            raise ValueError("`by` names the same twice")
        if isinstance(self.cost, int) and (isinstance(self.cost, bool) or self.cost < 1):
            raise ValueError("`cost` must be at least 1")
        return self


NONE: Final = "none"
"""In place of a name: no limit."""


def no_keyword(name: str) -> str:
    if name == NONE:
        raise ValueError("`none` stands for no limit; use another name")
    return name


LimitName = Annotated[Name, AfterValidator(no_keyword)]
RateLimits = Annotated[Name | list[Name], "the name of a limit, several that all have to admit a request, or `none`"]


def limits_of(names: "RateLimits | None") -> list[str]:
    """What a document says in short, in full; empty for no limit."""
    if isinstance(names, str):
        return [] if names == NONE else [names]
    return names or []


def _network(value: str) -> str:
    try:
        ip_network(value)
    except ValueError:
        try:
            meant = ip_network(value, strict=False)
        except ValueError:
            raise ValueError("must be an address, or a network such as 10.0.0.0/8 or 2001:db8::/32") from None
        raise ValueError(f"has bits that its network does not have; write {meant}, or the address alone") from None
    return value


Network = Annotated[str, AfterValidator(_network), WithJsonSchema({"type": "string", "examples": ["10.0.0.0/8", "2001:db8::1"]})]


class Rule(Model):
    """Refuses requests before anything else is done for them."""

    deny: str
    """A condition in CEL with references in braces: `'{header.user-agent} matches "(?i)curl|bot"'`. A request for which it holds, or cannot be evaluated, is refused.
    It may refer to `{header.x}`, `{query.x}` (both "" if absent), `{request.method}`, `{request.path}`, `{request.host}` and `{client.ip}`."""
    status: int = Field(403, ge=400, le=499)
    """Status of the answer. 404 is answered like a path that does not exist."""
    detail: str = ""
    """What the client is told. If empty, a fixed sentence."""

    @model_validator(mode="after")
    def _detail_is_shown(self) -> "Rule":
        if self.status == 404 and self.detail:
            raise ValueError("`detail` has no effect with status 404, which is answered like a path that does not exist")
        return self


class Pace(Model):
    """How often the gateway calls an upstream at most. Calls wait for their turn, in order, as long as their deadline allows."""

    shorthand: ClassVar[str | None] = "limit"

    limit: PerPeriod
    """Calls in a time, such as `50/1s`: every attempt counts, also retries and hedges. It may stand alone: `rate: 50/1s`. Each worker process paces its own calls, at
    its share of this."""
    burst: Count | None = Field(None, ge=1)
    """Calls that may go out at once after a pause. If unset, what the rate allows in 20 ms, and at least 1."""

    @model_validator(mode="before")
    @classmethod
    def _with_limit(cls, value: object) -> object:
        return {"limit": value} if isinstance(value, str) else value
