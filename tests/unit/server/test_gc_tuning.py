"""The garbage collector's settings, and that they are put back."""

import gc
from collections.abc import Iterator

import pytest

from anabranch.server import gc_tuning as memory


@pytest.fixture(autouse=True)
def _collector_as_it_was() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.enable()
    gc.unfreeze()
    gc.set_threshold(*threshold)


def test_nothing_is_collected_while_the_gateway_starts() -> None:
    memory.hold()
    assert not gc.isenabled()
    memory.settle()
    assert gc.isenabled()


def test_what_is_there_is_set_apart_and_again_after_a_reload() -> None:
    memory.settle()
    first = gc.get_freeze_count()
    assert first > 1000
    kept = [[number] for number in range(5000)]
    memory.resettle()
    assert gc.get_freeze_count() >= first + len(kept)


def test_what_a_reload_has_replaced_is_collected() -> None:
    class Old:
        """Part of a cycle, which only the collector can free."""

        count = 0

        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            Old.count += 1

    Old()
    memory.settle()
    old = Old()
    memory.settle()
    del old
    memory.resettle()
    assert Old.count == 2
