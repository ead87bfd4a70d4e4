"""What is shipped, in which order, from which position after a restart, and what happens when the sink fails."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from anabranch.journal.segment import PLAIN, listed
from anabranch.sinks.checkpoint import Checkpoint
from anabranch.sinks.shipper import Shipper
from anabranch.sinks.sink import Shipment, SinkError
from tests.support.recorded import recorded, write_segment


class Place:
    """An in-memory sink. `fail_after`: batches that it accepts before it fails."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.name = "place"
        self.ids: list[str] = []
        self.batches = 0
        self.fail_after = fail_after

    async def ship(self, shipments: Sequence[Shipment]) -> int:
        if self.fail_after is not None and self.batches >= self.fail_after:
            raise SinkError("it is away")
        self.batches += 1
        new = [shipment.record.id for shipment in shipments if shipment.record.id not in self.ids]
        self.ids += new
        return len(new)

    async def aclose(self) -> None:
        pass


RECORDS = [recorded(f"/x/{number}", b'{"n":1}', [], at_s=number) for number in range(30)]
IDS = [record.id for record in RECORDS]


async def ship(folder: Path, place: Place) -> int:
    shipper = Shipper(folder, place, interval_s=1)
    try:
        await shipper.ship()
    finally:
        await shipper.aclose()
    return shipper.counters.records


async def test_a_growing_segment_is_shipped_incrementally(tmp_path: Path) -> None:
    place = Place()
    path = write_segment(tmp_path, RECORDS[:10])
    assert await ship(tmp_path, place) == 10
    write_segment(tmp_path, RECORDS[:10])
    assert await ship(tmp_path, place) == 0
    whole = write_segment(tmp_path, RECORDS[:20]).read_bytes()
    path.write_bytes(whole[:-5])
    assert await ship(tmp_path, place) == 9
    path.write_bytes(whole)
    assert await ship(tmp_path, place) == 1
    assert place.ids == IDS[:20]


async def test_shipping_continues_in_a_segment_that_was_compressed_meanwhile(tmp_path: Path) -> None:
    place = Place()
    write_segment(tmp_path, RECORDS[:10])
    await ship(tmp_path, place)
    write_segment(tmp_path, RECORDS[:25], is_closed=True)
    assert await ship(tmp_path, place) == 15
    assert place.ids == IDS[:25]


@pytest.mark.parametrize("is_closed", [False, True])
async def test_lines_truncated_and_written_again_are_still_shipped(tmp_path: Path, is_closed: bool) -> None:
    """After a failed write the writer truncates the segment, so a position beyond that is invalid."""
    place = Place()
    path = write_segment(tmp_path, RECORDS[:10])
    await ship(tmp_path, place)
    path.unlink()
    # The same name, because a segment is named after its first record; the same length; other records after the first.
    write_segment(tmp_path, [RECORDS[0], *RECORDS[10:25]], is_closed=is_closed)
    assert await ship(tmp_path, place) == 16
    assert sorted(place.ids) == sorted(IDS[:25])


async def test_damaged_lines_are_skipped(tmp_path: Path) -> None:
    path = write_segment(tmp_path, RECORDS[:3])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1].replace(b'"n"', b'"m"') + b"nonsense\n" + lines[2])
    place = Place()
    assert await ship(tmp_path, place) == 2
    assert place.ids == [IDS[0], IDS[2]]


async def test_a_failure_keeps_the_position_and_the_rest_is_shipped_later(tmp_path: Path) -> None:
    for number in range(3):
        write_segment(tmp_path, RECORDS[10 * number : 10 * number + 10], sequence=number + 1, is_closed=True)
    place = Place(fail_after=1)
    with pytest.raises(SinkError):
        await ship(tmp_path, place)
    place.fail_after = None
    assert await ship(tmp_path, place) == 20
    assert place.ids == IDS


async def test_retention_waits_until_a_closed_segment_is_shipped(tmp_path: Path) -> None:
    write_segment(tmp_path, RECORDS[:5], is_closed=True)
    write_segment(tmp_path, RECORDS[5:10], sequence=2)
    closed, open_ = listed(tmp_path)
    shipper = Shipper(tmp_path, Place(), interval_s=1)
    assert shipper.is_needed(closed)
    await shipper.ship()
    assert not shipper.is_needed(closed)
    assert shipper.is_needed(open_)
    await shipper.aclose()


async def test_positions_of_deleted_segments_are_discarded(tmp_path: Path) -> None:
    path = write_segment(tmp_path, RECORDS[:5], is_closed=True)
    await ship(tmp_path, Place())
    path.unlink()
    write_segment(tmp_path, RECORDS[5:10], sequence=2)
    await ship(tmp_path, Place())
    checkpoint = Checkpoint(tmp_path, "place")
    assert checkpoint.lock()
    assert len(checkpoint.positions) == 1
    checkpoint.unlock()


async def test_an_unreadable_checkpoint_restarts_from_the_beginning(tmp_path: Path) -> None:
    write_segment(tmp_path, RECORDS[:5])
    place = Place()
    await ship(tmp_path, place)
    (tmp_path / "sink-place.json").write_text("{nonsense")
    assert await ship(tmp_path, place) == 5
    assert place.ids == IDS[:5]


async def test_nothing_to_ship_is_not_a_failure(tmp_path: Path) -> None:
    assert await ship(tmp_path / "nowhere", Place()) == 0
    assert await ship(tmp_path, Place()) == 0
    assert not list(tmp_path.glob(f"*{PLAIN}"))
