"""Measures the policy layers: CPU time of one call through various stacks, over a transport that answers at once. `python -m bench.layers`.

Without sockets, so the figures are those of the layers alone. Source of the figures in docs/decisions/0002-order-of-policies.md.
"""

import random
from time import monotonic, process_time
from typing import Any

import uvloop

from anabranch.config.model import Upstream
from anabranch.core.exchange import Address, Answer, Request
from anabranch.plan.upstream import compile_upstream
from anabranch.policy.call import Call
from anabranch.policy.stack import build_stack
from anabranch.policy.tools import Tools

ROUNDS = 7
CALLS = 20_000
ANSWER = Answer(200, [], b"{}")
REQUEST = Request("GET", "/")
ONE, TWO = "http://127.0.0.1:1", "http://127.0.0.1:2"

STACKS: dict[str, dict[str, Any]] = {
    "bulkhead and attempt": {},
    "and a deadline header": {"deadline_header": "x-deadline-ms"},
    "and retry": {"retry": {}},
    "and breaker": {"breaker": {}},
    "and adaptive limit": {"concurrency": {"limit": 64, "adaptive": "gradient"}},
    "and hedge (p95, not known yet)": {"hedge": {"after": "p99.999"}},
    "and hedge (50 ms)": {"hedge": {"after": "50ms"}},
    "and balance over two": {"urls": [ONE, TWO]},
    "and retry, breaker, timeout": {"retry": {}, "breaker": {}, "timeout": "1s"},
    "and everything": {
        "retry": {},
        "breaker": {},
        "timeout": "1s",
        "hedge": {"after": "50ms"},
        "concurrency": {"limit": 64, "adaptive": "gradient"},
    },
}


class Instant:
    """A transport that answers at once."""

    async def exchange(self, request: Request, address: Address, deadline: float) -> Answer:
        return ANSWER

    async def aclose(self) -> None:
        pass


def new_call() -> Call:
    return Call(REQUEST, deadline=monotonic() + 5, is_idempotent=True, is_required=True)


async def measure(settings: dict[str, Any]) -> float:
    """CPU seconds of one call, without creating the `Call`; the best of ROUNDS."""
    upstream = Upstream.model_validate(settings if "urls" in settings else {"url": ONE, **settings})
    stack = build_stack(compile_upstream("bench", upstream), Tools(transport=Instant(), clock=monotonic, random=random.random))
    best = float("inf")
    for _ in range(ROUNDS):
        calls = [new_call() for _ in range(CALLS)]
        began = process_time()
        for call in calls:
            await stack.call(call)
        best = min(best, process_time() - began)
    await stack.aclose()
    return best / CALLS


async def main() -> None:
    base = 0.0
    for label, settings in STACKS.items():
        seconds = await measure(settings)
        base = base or seconds
        more = "" if seconds == base else f"  (+{(seconds - base) * 1e6:.2f})"
        print(f"{label:32} {seconds * 1e6:6.2f} us{more}")


if __name__ == "__main__":
    uvloop.run(main())
