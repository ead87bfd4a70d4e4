"""An overloaded upstream: optional steps are shed first, and required ones keep the capacity."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.support.gateway import running_gateway
from tests.support.load import Load, Reply, percentile, under_load
from tests.support.workers import Workers

SERVICE_S: Final = 0.02
# About 20 seconds: several times what is needed.
ROUNDS: Final = 40

DOCUMENT: Final = """
version: 1
upstreams:
  stock: {url: '%s', timeout: 20s, connect_timeout: 20s, concurrency: %s}
endpoints:
  - path: /page
    timeout: 20s
    steps:
      nice: {upstream: stock, path: /nice}
      needed: {upstream: stock, path: /needed, required: true}
      nicer: {upstream: stock, path: /nicer}
"""


def outcomes(replies: list[Reply], *steps: str) -> Counter[str | None]:
    return Counter(reply.steps[step].failure for reply in replies for step in steps)


def check_required(replies: list[Reply]) -> None:
    """Every required call was answered, and optional ones failed only because of a full queue."""
    assert {reply.status for reply in replies} == {200}
    assert set(outcomes(replies, "needed")) == {None}
    assert set(outcomes(replies, "nice", "nicer")) <= {None, "queue_full"}


@pytest.mark.both_loops
async def test_optional_steps_are_shed_first_and_required_ones_keep_the_slots(tmp_path: Path) -> None:
    """24 clients make three calls each where 8 can run and 24 can wait: every required call gets a slot, and few others do."""
    clients, slots, queue, pages = 24, 8, 24, 400
    async with Workers(count=slots, service_s=SERVICE_S) as upstream:
        document = DOCUMENT % (upstream.url, f"{{limit: {slots}, queue: {queue}}}")
        async with running_gateway(document, tmp_path) as gateway:
            async with under_load(gateway.port, "/page", clients=clients) as load:
                await load.more(clients)
                upstream.begun.clear()
                begun_with = len(load.replies)
                await load.more(pages)
                worked = upstream.begun.copy()
            replies = load.replies[begun_with:]
        check_required(load.replies)
        assert upstream.most_inside == slots
        # A third of the calls are required. In order of arrival they would also be a third of the work.
        assert worked["/needed"] / worked.total() > 0.6
        shed = outcomes(replies, "nice", "nicer")["queue_full"]
        assert shed / (2 * len(replies)) > 0.5


async def test_adaptive_limit_follows_a_loss_of_capacity_and_its_return(tmp_path: Path) -> None:
    """16 workers, then 4, then 16. A fixed limit would send 48 exchanges to the 4 workers at once."""
    clients, most, few, many = 32, 48, 4, 16
    async with Workers(count=many, service_s=SERVICE_S) as upstream:
        slots = f"{{limit: {most}, queue: {most}, adaptive: gradient, min: {few}, max: {most}}}"
        async with (
            running_gateway(DOCUMENT % (upstream.url, slots), tmp_path) as gateway,
            under_load(gateway.port, "/page", clients=clients) as load,
        ):
            await load.more(150)
            upstream.count = few
            await load.more(clients)
            inside, crowded = await rounds_until(load, upstream, lambda inside: inside <= most / 2, pages=clients)
            assert inside <= most / 2, f"{inside} exchanges at once for {few} workers, after {len(load.replies)} pages"
            # Only optional calls were shed, and required ones are answered faster than at first.
            low = len(load.replies)
            await load.more(2 * clients)
            relieved = load.replies[low:]
            assert outcomes(relieved, "nice", "nicer")["queue_full"] > 0
            assert median_ms(relieved) < median_ms(crowded)

            upstream.count = many
            inside, _ = await rounds_until(load, upstream, lambda inside: inside >= 1.25 * most / 2, pages=2 * clients)
            assert inside >= 1.25 * most / 2, f"{inside} exchanges at once for {many} workers, after {len(load.replies)} pages"
        check_required(load.replies)


async def rounds_until(load: Load, upstream: Workers, is_there: Callable[[int], bool], *, pages: int) -> tuple[int, list[Reply]]:
    """Run rounds of `pages` pages until `is_there` holds for the concurrent exchanges of a round; at most ROUNDS rounds.

    Returns the concurrent exchanges of the last round, and the replies of the first.
    """
    began = len(load.replies)
    for _ in range(ROUNDS):
        upstream.most_inside = 0
        await load.more(pages)
        if is_there(upstream.most_inside):
            break
    return upstream.most_inside, load.replies[began : began + pages]


def median_ms(replies: list[Reply]) -> float:
    return percentile((reply.steps["needed"].ms for reply in replies), 50)
