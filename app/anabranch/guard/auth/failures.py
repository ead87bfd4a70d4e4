"""Limits how often one address may send credentials that are refused, so that nobody can guess them, nor keep the gateway busy with verifying."""

from collections.abc import Awaitable, Callable
from typing import Final

from anabranch.core.principal import Principal
from anabranch.core.rate import Bucket, Rate
from anabranch.errors import RateLimited, Unauthenticated
from anabranch.guard.tally import Tally
from anabranch.store.memory import MemoryStore

NAME: Final = "auth_failures"


class FailureLimit:
    """Counts in the memory of this process. An address that has used up its failures is rejected before anything is verified; a client whose credential is remembered is never asked here.

    `rate`: failures of one address.
    """

    def __init__(self, rate: Rate, memory: MemoryStore, tally: Tally) -> None:
        self._rate = rate
        self._memory = memory
        self._tally = tally

    async def watch(self, network: bytes, find: Callable[[], Awaitable[tuple[Principal, bool]]]) -> Principal:
        """What `find` finds, which also says whether it has refused a credential on the way. Raises what it raises, and RateLimited without calling it. Requests that are verified at the same time count until they turn out to be good: otherwise
        a thousand guesses at once would be one."""
        buckets = [Bucket(b"auth_failures:" + network, self._rate)]
        (verdict,) = await self._memory.take(buckets, 1)
        if not verdict.is_allowed:
            self._tally.reject(NAME)
            raise RateLimited(
                "too many credentials from this address were refused",
                headers={"retry-after": str(max(1, round(verdict.retry_after_s + 0.5)))},
            )
        is_refused = False
        try:
            principal, is_refused = await find()
        except Unauthenticated as error:
            is_refused = error.is_refusal
            raise
        finally:
            if not is_refused:
                await self._memory.take(buckets, -1)
        return principal
