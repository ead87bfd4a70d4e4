"""Limits how often one address may send credentials that are refused, so that nobody can guess them, nor keep the gateway busy with verifying."""

from collections.abc import Awaitable, Callable
from typing import Final

from anabranch.core.principal import Principal
from anabranch.core.rate import Bucket, Rate, whole_seconds
from anabranch.errors import RateLimited, Unauthenticated
from anabranch.guard.tally import Tally
from anabranch.store.memory import MemoryStore

NAME: Final = "auth_failures"


class FailureLimit:
    """Counts in the memory of this process. An address that has used up its failures is rejected before anything is verified. A client whose credential is remembered
    never comes here.

    `rate`: failures of one address.
    """

    def __init__(self, rate: Rate, memory: MemoryStore, tally: Tally) -> None:
        self._rate = rate
        self._memory = memory
        self._tally = tally

    async def watch(self, network: bytes, find: Callable[[], Awaitable[tuple[Principal, bool]]]) -> Principal:
        """The principal that `find` returns. Raises what it raises, and RateLimited without calling it.

        `network`: of the client's address. `find`: also returns whether it has refused a credential on the way. Requests that are verified at the same time count until
        they turn out to be good: otherwise a thousand guesses at once would be one.
        """
        buckets = [Bucket(b"auth_failures:" + network, self._rate)]
        (verdict,) = await self._memory.take(buckets, 1)
        if not verdict.is_allowed:
            self._tally.reject(NAME)
            raise RateLimited(
                "too many credentials from this address were refused",
                headers={"retry-after": str(whole_seconds(verdict.retry_after_s))},
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
