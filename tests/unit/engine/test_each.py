"""What the failures of many elements cost."""

import asyncio
from itertools import pairwise

from anabranch.core.exchange import Answer
from anabranch.core.tasks import cancel_and_wait
from anabranch.engine.run import Engine
from anabranch.errors import BreakerOpen
from anabranch.policy.call import Call
from tests.support.documents import plan_of
from tests.support.requests import request_of

STEPS = {"list": {"upstream": "a", "path": "/list"}, "it": {"upstream": "b", "path": "/{item}", "each": "{list}", "max_items": 1000}}


async def test_elements_that_an_open_breaker_rejects_leave_the_loop_to_others_and_keep_no_frames() -> None:
    rejected = 0
    seen = list[int]()

    async def answer(_: Call) -> Answer:
        return Answer(200, [], b"[%s]" % b",".join([b"1"] * 1000))

    async def reject(_: Call) -> Answer:
        nonlocal rejected
        rejected += 1
        raise BreakerOpen("the breaker is open")

    async def other() -> None:
        while True:
            seen.append(rejected)
            await asyncio.sleep(0)

    plan = plan_of({"steps": STEPS})
    watching = asyncio.create_task(other())
    result = await Engine({"a": answer, "b": reject}).bind(plan)(request_of(plan))
    await cancel_and_wait([watching])
    failures = result.outcomes[1].item_failures
    assert len(failures) == rejected == 1000
    assert max(after - before for before, after in pairwise(seen)) <= 128
    assert all(failure.__traceback__ is None for failure in failures)
