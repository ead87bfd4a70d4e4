"""Taking from several buckets: all or nothing, and never more than each of them allows."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from anabranch.core.rate import Bucket, Rate, all_allowed
from anabranch.store.memory import MemoryStore

RATES = [Rate(5, 10.0, 3), Rate(20, 60.0, 20, is_quota=True), Rate(1, 1.0, 1)]


@given(st.lists(st.tuples(st.floats(0, 30), st.sets(st.sampled_from([0, 1, 2]), min_size=1), st.integers(1, 4)), max_size=50))
def test_buckets_take_together_or_not_at_all(asked: list[tuple[float, set[int], int]]) -> None:
    now = [1_000_000.0]
    store = MemoryStore(clock=lambda: now[0])
    taken: dict[int, list[tuple[float, int]]] = {index: [] for index in range(len(RATES))}

    async def run() -> None:
        for pause_s, which, cost in asked:
            now[0] += pause_s
            buckets = [Bucket(b"%d" % index, RATES[index]) for index in sorted(which)]
            alone = [(await store.take([bucket], 0))[0].remaining for bucket in buckets]
            verdicts = await store.take(buckets, cost)
            left = [(await store.take([bucket], 0))[0].remaining for bucket in buckets]
            if all_allowed(verdicts):
                assert left == [before - cost for before in alone]
                for index in which:
                    taken[index].append((now[0], cost))
            else:
                assert left == alone
                assert any(before < cost for before in alone)

    asyncio.run(run())
    for index, rate in enumerate(RATES):
        if rate.is_quota:
            windows: dict[int, int] = {}
            for at, cost in taken[index]:
                windows[int(at // rate.period_s)] = windows.get(int(at // rate.period_s), 0) + cost
            assert all(sum_ <= rate.count for sum_ in windows.values())
