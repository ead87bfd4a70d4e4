"""No required answer that a client has received is ever lost. The long version: `python -m tests.chaos.journal_kill --kills 50`."""

import random
from pathlib import Path

from tests.chaos.journal_kill import FLUSH_S, chaos

# Delay between queueing a record and its fsync on a busy machine.
_BUSY_S = 1.0


async def test_required_answers_survive_kills(tmp_path: Path) -> None:
    report = await chaos(tmp_path, kills=8, choose=random.Random())
    print(report)  # noqa: T201 - it says its counts
    assert report.is_good, report
    assert report.required > 100
    assert report.oldest_loss_s < FLUSH_S + _BUSY_S, report
