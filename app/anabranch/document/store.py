"""Opens the shared store of a document."""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from anabranch.errors import MissingExtraError
from anabranch.plan.store import StorePlan
from anabranch.upstream.tls import TLSContexts

if TYPE_CHECKING:
    from anabranch.store.redis import RedisStore


def open_store(plan: StorePlan, contexts: TLSContexts) -> "RedisStore":
    """Create a store, not connected yet. Raises MissingExtraError, and ValueError with a sentence if a file of its `tls` is not usable."""
    if find_spec("hiredis") is None:
        raise MissingExtraError("a store in Redis or Valkey", "redis")
    from anabranch.store.redis import RedisStore  # noqa: PLC0415 - its library is an extra

    return RedisStore(plan.redis, None if plan.tls is None else contexts.get(plan.tls, alpn=()))
