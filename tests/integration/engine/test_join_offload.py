"""Large lists are joined in a worker process, with the same result."""

from time import monotonic

from anabranch.compute.offload import Offload
from anabranch.jsontext.join import Join, join
from anabranch.jsontext.order import joining


async def test_a_worker_joins_as_the_loop_does() -> None:
    rule = Join(left=(("id",),), right=(("id",),), name="r")
    left = b"[" + b",".join(b'{"id":%d}' % number for number in range(5000)) + b"]"
    right = b"[" + b",".join(b'{"id":"%d","v":1.50}' % number for number in range(0, 5000, 2)) + b"]"
    async with Offload() as offload:
        assert await offload.join(rule, joining(rule), left, right, "j", monotonic() + 30) == join(left, right, rule)
