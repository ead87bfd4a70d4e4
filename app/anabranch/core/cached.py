"""What the cache has to do with one answer."""

import msgspec


class CacheUse(msgspec.Struct, frozen=True):
    """`status`: the parameters of the call's entry in `Cache-Status` (RFC 9211 section 2), such as `hit; ttl=12` or `fwd=uri-miss; stored`. `fresh_s`: for how long the answer
    is still fresh, in seconds; 0 or less: it must be validated. `age_s`: its age. `is_private`: it is meant for this client alone. `is_no_store`: nobody may store it.
    """

    status: str
    fresh_s: float
    age_s: float = 0.0
    is_private: bool = False
    is_no_store: bool = False


def together(one: CacheUse | None, other: CacheUse) -> CacheUse:
    """What the cache had to do with a value that is made of several answers: a hit only if each of them is one, and as fresh as the least fresh."""
    if one is None:
        return other
    least = min(one, other, key=lambda use: (use.status.startswith("hit"), use.fresh_s))
    return CacheUse(
        least.status,
        min(one.fresh_s, other.fresh_s),
        max(one.age_s, other.age_s),
        one.is_private or other.is_private,
        one.is_no_store or other.is_no_store,
    )
