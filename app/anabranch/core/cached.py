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
