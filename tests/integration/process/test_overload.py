"""Five times as many clients as slots: admitted requests are served as before, the others are rejected with Retry-After."""

import asyncio
from pathlib import Path
from statistics import median

from anabranch.guard.concurrency import Gate
from anabranch.main import assemble
from anabranch.settings import Settings
from anabranch.testing.scripted.upstream import ScriptedUpstream
from anabranch.testing.serving import serve
from tests.support.gateway import running_gateway
from tests.support.load import Visitor, closed_loop
from tests.support.workers import Workers

PLACES = 8
SERVICE_S = 0.02
STRETCH_S = 1.5
DOCUMENT = """\
version: 1
upstreams: {{a: {{url: "{url}", concurrency: {{limit: 1000}}}}}}
endpoints:
  - {{path: /a, steps: {{s: {{upstream: a, path: /}}}}}}
  - {{path: /few, timeout: 60s, max_requests: 2, steps: {{s: {{upstream: a, path: /, required: true}}}}}}
"""


class Crowd:
    """The answers that clients received in an interval. A rejected client retries after a short pause."""

    def __init__(self) -> None:
        self.good = 0
        self.shed = 0
        self.others: set[int] = set()
        self.most_tasks = 0
        self.in_use: list[int] = []

    async def ask(self, port: int, until: float) -> None:
        loop = asyncio.get_running_loop()
        async with Visitor(port) as visitor:
            while loop.time() < until:
                reply = await visitor.get("/a")
                if reply.status == 200:
                    self.good += 1
                elif reply.status == 503 and reply.headers["retry-after"] == "1":
                    self.shed += 1
                    await asyncio.sleep(0.05)
                else:
                    self.others.add(reply.status)
                self.most_tasks = max(self.most_tasks, len(asyncio.all_tasks()))

    async def look(self, gate: Gate, until: float) -> None:
        """Samples the number of slots in use at every turn of the loop."""
        loop = asyncio.get_running_loop()
        while loop.time() < until:
            self.in_use.append(gate.bulkhead.in_use)
            await asyncio.sleep(0.005)


async def crowded(port: int, gate: Gate, clients: int) -> Crowd:
    crowd = Crowd()
    until = asyncio.get_running_loop().time() + STRETCH_S
    async with asyncio.TaskGroup() as group:
        group.create_task(crowd.look(gate, until))
        for _ in range(clients):
            group.create_task(crowd.ask(port, until))
    return crowd


async def test_slots_stay_busy_and_nothing_piles_up_at_five_times_saturation(tmp_path: Path) -> None:
    async with Workers(count=PLACES, service_s=SERVICE_S) as upstream:
        path = tmp_path / "gateway.yaml"
        path.write_text(DOCUMENT.format(url=upstream.url), "utf-8")
        process = assemble(Settings(document=path, reload="off", max_requests=PLACES, max_waiting=PLACES, max_wait_s=0.1))
        gate = process.gate
        assert gate is not None
        async with serve(process.app) as port:
            saturated = await crowded(port, gate, PLACES)
            upstream.most_inside = 0
            begun = upstream.begun.total()
            flooded = await crowded(port, gate, 5 * PLACES)
            assert (gate.bulkhead.in_use, gate.bulkhead.queued) == (0, 0)
        assert saturated.others | flooded.others == set()
        assert flooded.shed == gate.shed > 0
        # bench.overload measures the throughput on a quiet machine. Here other processes may use the processor, but the available time
        # goes into admitted requests: as many slots are in use as before, and no work is done for rejected requests.
        assert median(flooded.in_use) >= median(saturated.in_use) > 0
        assert flooded.good == upstream.begun.total() - begun > 0
        assert upstream.most_inside <= PLACES
        # For each client its own task, its request in the gateway, and the work of gateway and service for it.
        assert flooded.most_tasks < 5 * PLACES * 3 + 40


async def test_endpoint_has_its_own_limit(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream({"*": {"json": 1, "delay_s": 1.0}}) as upstream,
        running_gateway(DOCUMENT.format(url=upstream.url), tmp_path) as it,
    ):
        few, many = await asyncio.gather(
            closed_loop(it.port, "/few", clients=8, requests=8), closed_loop(it.port, "/a", clients=8, requests=8)
        )
    assert {reply.status for reply in many} == {200}
    assert sorted(reply.status for reply in few) == [200] * 4 + [503] * 4
    refused = next(reply for reply in few if reply.status == 503)
    assert refused.json["type"] == "/problems/overloaded"
    assert refused.headers["retry-after"] == "1"
