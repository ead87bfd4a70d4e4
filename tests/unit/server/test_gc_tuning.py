"""The garbage collector's settings, and that they are restored."""

import gc
from collections.abc import Iterator

import pytest

from anabranch.server import gc_tuning


@pytest.fixture(autouse=True)
def _collector_as_it_was() -> Iterator[None]:
    """What is frozen stays so: the tests of a run are, once they are collected (`tests/conftest.py`). Garbage among them must not count here."""
    threshold = gc.get_threshold()
    gc.unfreeze()
    gc.collect()
    yield
    gc.enable()
    gc.freeze()
    gc.set_threshold(*threshold)


def test_nothing_is_collected_while_the_gateway_starts() -> None:
    gc_tuning.pause()
    assert not gc.isenabled()
    gc_tuning.freeze()
    assert gc.isenabled()


def test_existing_objects_are_frozen_and_again_after_a_reload() -> None:
    gc_tuning.freeze()
    first = gc.get_freeze_count()
    assert first > 1000
    kept = [[number] for number in range(5000)]
    gc_tuning.refreeze()
    assert gc.get_freeze_count() >= first + len(kept)


def test_objects_replaced_by_a_reload_are_collected() -> None:
    class Old:
        """Part of a reference cycle, which only the collector can free."""

        count = 0

        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            Old.count += 1

    Old()
    gc_tuning.freeze()
    old = Old()
    gc_tuning.freeze()
    del old
    gc_tuning.refreeze()
    assert Old.count == 2
