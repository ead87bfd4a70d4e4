"""Judges good answers inside the layers that count and repeat failures, for calls whose document says `counts_as_failure`.

An answer that is refused is a failure of the upstream for the layers outside of this one: the breaker counts it, a retry follows, an old answer
may replace it.
"""

from anabranch.core.exchange import Answer
from anabranch.plan.upstream import UpstreamPlan
from anabranch.policy.call import Call, Policy
from anabranch.policy.tools import Tools


class JudgeLayer:
    """Raises UnexpectedAnswer for a good answer that the call's judge refuses. Other calls pass through."""

    __slots__ = ("_next",)

    def __init__(self, next_: Policy) -> None:
        self._next = next_

    async def __call__(self, call: Call) -> Answer:
        answer = await self._next(call)
        if call.judge is not None and answer.status in call.success:
            await call.judge(answer)
        return answer


def build(next_: Policy, upstream: UpstreamPlan, tools: Tools) -> JudgeLayer | None:
    """Built where an answer of the upstream is judged here."""
    return JudgeLayer(next_) if upstream.has_judged_calls else None


def describe(upstream: UpstreamPlan) -> str | None:
    return "judge answers of calls that enable it" if upstream.has_judged_calls else None
