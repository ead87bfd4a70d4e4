"""The queue keeps its bounds, its order and its counts, even when waiters are cancelled."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.errors import JournalFull
from anabranch.journal.queue import Entry, Queue
from tests.support.recorded import NOW


def entry(size: int = 10) -> Entry:
    return Entry(b"x" * size, NOW)


async def in_a_moment(queue: Queue, new: Entry) -> "asyncio.Task[None]":
    task = asyncio.create_task(queue.add_in_turn(new, asyncio.get_running_loop().time() + 60))
    await asyncio.sleep(0)
    return task


def test_the_queue_is_full_by_records_or_by_bytes() -> None:
    queue = Queue(max_records=2, max_bytes=25)
    assert queue.add(entry())
    assert queue.add(entry())
    assert not queue.add(entry(1))
    queue = Queue(max_records=9, max_bytes=25)
    assert queue.add(entry(20))
    assert not queue.add(entry(6))
    assert queue.add(entry(5))


def test_records_being_written_still_count() -> None:
    queue = Queue(max_records=1, max_bytes=100)
    queue.add(entry())
    queue.take(1000)
    assert not queue.add(entry())
    queue.release(1, 10)
    assert queue.add(entry())


def test_a_line_larger_than_the_queue_is_accepted_when_it_is_empty() -> None:
    queue = Queue(max_records=10, max_bytes=5)
    assert queue.add(entry(50))
    assert not queue.add(entry(1))


async def test_waiting_is_first_come_first_served() -> None:
    queue = Queue(max_records=1, max_bytes=100)
    queue.add(entry())
    first, second = entry(1), entry(2)
    tasks = [await in_a_moment(queue, first), await in_a_moment(queue, second)]
    assert not queue.add(entry())
    assert [len(taken.line) for taken in queue.take(1000)] == [10]
    queue.release(1, 10)
    await tasks[0]
    assert queue.take(1000) == [first]
    queue.release(1, 1)
    await tasks[1]
    assert queue.take(1000) == [second]


async def test_a_cancelled_waiter_gives_up_its_position() -> None:
    queue = Queue(max_records=1, max_bytes=100)
    queue.add(entry())
    leaving, staying = await in_a_moment(queue, entry(1)), await in_a_moment(queue, entry(2))
    leaving.cancel()
    await asyncio.wait([leaving])
    queue.take(1000)
    queue.release(1, 10)
    await staying
    assert (queue.records, queue.size_bytes) == (1, 2)


async def test_a_waiter_cancelled_just_after_it_got_a_slot_releases_it() -> None:
    queue = Queue(max_records=1, max_bytes=100)
    queue.add(entry())
    leaving = await in_a_moment(queue, entry(1))
    queue.take(1000)
    queue.release(1, 10)
    leaving.cancel()
    await asyncio.wait([leaving])
    assert (queue.records, queue.size_bytes, len(queue)) == (0, 0, 0)


async def test_no_room_by_the_deadline_is_journal_full() -> None:
    queue = Queue(max_records=1, max_bytes=100)
    queue.add(entry())
    with pytest.raises(JournalFull):
        await queue.add_in_turn(entry(), asyncio.get_running_loop().time())
    assert queue.records == 1


async def test_all_waiters_can_be_rejected() -> None:
    queue = Queue(max_records=1, max_bytes=100)
    queue.add(entry())
    tasks = [await in_a_moment(queue, entry()) for _ in range(3)]
    queue.reject_waiting("nothing can be written")
    for task in tasks:
        with pytest.raises(JournalFull, match="nothing"):
            await task
    assert queue.records == 1


def test_void_entries_are_skipped() -> None:
    queue = Queue(max_records=9, max_bytes=100)
    unwanted, wanted = entry(), entry()
    queue.add(unwanted)
    queue.add(wanted)
    unwanted.is_abandoned = True
    assert queue.take(1000) == [wanted]
    assert queue.records == 1


def test_entries_put_back_come_first() -> None:
    queue = Queue(max_records=9, max_bytes=100)
    entries = [entry() for _ in range(4)]
    for one in entries:
        queue.add(one)
    taken = queue.take(20)
    assert taken == entries[:2]
    queue.put_back(taken)
    assert queue.take(1000) == entries


@given(st.lists(st.tuples(st.sampled_from(["add", "take", "put back"]), st.integers(1, 40)), max_size=60))
def test_the_counts_are_correct_after_any_sequence_of_operations(history: list[tuple[str, int]]) -> None:
    queue = Queue(max_records=5, max_bytes=100)
    inside: list[Entry] = []
    for what, size in history:
        if what == "add":
            new = entry(size)
            if queue.add(new):
                inside.append(new)
        elif what == "take":
            taken = queue.take(size)
            queue.release(len(taken), sum(len(one.line) for one in taken))
            assert taken == inside[: len(taken)]
            del inside[: len(taken)]
        else:
            queue.put_back(queue.take(size))
        assert (queue.records, queue.size_bytes) == (len(inside), sum(len(one.line) for one in inside))
        assert queue.records <= 5
