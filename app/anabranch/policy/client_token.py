"""Sends the client's own token to an upstream.

**Source:** RFC 6750 section 2.1.
"""

from collections.abc import Awaitable

import msgspec

from anabranch.core.exchange import Answer
from anabranch.plan.upstream import UpstreamPlan
from anabranch.policy.call import Call, Policy
from anabranch.policy.token import token_of, without_authorization
from anabranch.policy.tools import Tools


class ClientTokenLayer:
    """It replaces any other authorization. The outer layers never see the token: what they share is kept apart by the principal's identity."""

    __slots__ = ("_next",)

    def __init__(self, next_: Policy) -> None:
        self._next = next_

    def __call__(self, call: Call) -> Awaitable[Answer]:
        return self._send(call, token_of(call))

    async def _send(self, call: Call, token: bytes) -> Answer:
        original = call.request
        bare = without_authorization(original)
        try:
            call.request = msgspec.structs.replace(bare, extra=(*bare.extra, (b"authorization", b"Bearer " + token)))
            return await self._next(call)
        finally:
            call.request = original


def build(next_: Policy, upstream: UpstreamPlan, tools: Tools) -> ClientTokenLayer | None:
    return ClientTokenLayer(next_) if upstream.sends_client_token else None


def describe(upstream: UpstreamPlan) -> str | None:
    return "token of the client" if upstream.sends_client_token else None
