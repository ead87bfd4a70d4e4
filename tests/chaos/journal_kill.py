"""Repeatedly kills gateways that write a journal, at random moments. `python -m tests.chaos.journal_kill --kills 50`.

Two gateways share one folder; clients request required and relaxed endpoints. Each gateway is killed with SIGKILL after a random time and
replaced by a new one. At the end, every required answer that a client received is in the journal exactly once, every segment verifies, ids
are unique, and lost relaxed records were answered within the flush interval (plus a busy machine's delay) before the kill.
"""

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import uuid4

from anabranch.journal import reader
from anabranch.journal.recovery import recover
from anabranch.journal.segment import listed
from anabranch.journal.verify import verify
from anabranch.testing.scripted.upstream import ScriptedUpstream
from anabranch.testing.serving import LOOPBACK
from tests.support.command import Command, running_command
from tests.support.eventually import eventually

FLUSH_S: Final = 0.05
CLIENTS: Final = 8
LIFE_S: Final = (0.05, 2.0)
# Minimum number of required answers for each gateway so far before the next kill, so that even a slow machine has records to lose.
ANSWERS: Final = 20
DOCUMENT: Final = """
version: 1
upstreams:
  up: {{url: "http://{host}:{port}", connect_timeout: 20s}}
defaults: {{timeout: 20s}}
endpoints:
  - path: /required
    steps: {{one: {{upstream: up, path: /one}}}}
    journal: {{durability: required}}
  - path: /relaxed
    steps: {{one: {{upstream: up, path: /one}}}}
    journal: true
journal: {{flush_interval: 50ms, min_free: 0, segment_size: 64KiB, queue_records: 100000}}
"""


@dataclass(slots=True)
class Seen:
    """The answers that clients received: `required`: ids; `relaxed`: ids with time and number of the answering gateway. `killed_at`: by
    gateway."""

    required: set[str] = field(default_factory=set)
    relaxed: dict[str, tuple[float, int]] = field(default_factory=dict)
    killed_at: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """`missing`, `repeated`: required answers that the journal does not contain, or contains more than once. `lost`: relaxed answers that
    it does not contain; `oldest_loss_s`: how long before its gateway's death the earliest of them was given."""

    kills: int
    required: int
    missing: int
    repeated: int
    relaxed: int
    lost: int
    oldest_loss_s: float
    records: int
    repeated_ids: int
    segments: int
    unsound: int

    def __str__(self) -> str:
        return (
            f"{self.kills} kills; required: {self.required} answers seen, {self.missing} missing, {self.repeated} repeated; relaxed: {self.relaxed} "
            f"answers seen, {self.lost} lost, the earliest {self.oldest_loss_s * 1000:.0f} ms before its gateway's death; {self.records} records, "
            f"{self.repeated_ids} repeated ids; {self.segments} segments, {self.unsound} unsound"
        )

    @property
    def is_good(self) -> bool:
        return not (self.missing or self.repeated or self.repeated_ids or self.unsound)


async def chaos(folder: Path, *, kills: int, choose: random.Random, say: Callable[[str], None] = lambda _: None) -> Report:
    """Kill `kills` gateways, then check what they have written."""
    seen = Seen()
    journal = folder / "journal"
    async with ScriptedUpstream({"/one": {"json": {"n": 1}}}) as upstream:
        document = folder / "gateway.yaml"
        document.write_text(DOCUMENT.format(host=LOOPBACK, port=upstream.port))
        numbers = iter(range(kills))

        async def keep_killing() -> None:
            for number in numbers:
                async with running_command(document, ANABRANCH_JOURNAL_PATH=str(journal), ANABRANCH_ACCESS_LOG="off") as command:
                    await live_and_die(command, number, seen, choose.uniform(*LIFE_S))
                say(f"kill {number + 1} of {kills}: {len(seen.required)} required and {len(seen.relaxed)} relaxed answers so far")

        await asyncio.gather(keep_killing(), keep_killing())
    return await asyncio.to_thread(examine, journal, kills, seen)


async def live_and_die(command: Command, number: int, seen: Seen, life_s: float) -> None:
    """Put a gateway under load. Kill it after `life_s`, but not before the gateways so far have given enough answers."""
    clients = [asyncio.create_task(ask(command.port, index, number, seen)) for index in range(CLIENTS)]
    await asyncio.sleep(life_s)
    await eventually(lambda: len(seen.required) >= ANSWERS * number, 60)
    seen.killed_at[number] = time.monotonic()
    os.kill(command.pid, 9)
    await command.process.wait()
    await asyncio.gather(*clients)


async def ask(port: int, index: int, number: int, seen: Seen) -> None:
    """One client, until its connection is lost. An answer counts when it has been read completely."""
    path = "/required" if index % 2 else "/relaxed"
    try:
        reader_, writer = await asyncio.open_connection(LOOPBACK, port)
    except OSError:
        return
    try:
        while True:
            request_id = uuid4().hex
            writer.write(f"GET {path} HTTP/1.1\r\nhost: gateway\r\nx-request-id: {request_id}\r\n\r\n".encode())
            head = await reader_.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader_.readexactly(length)
            assert head.startswith(b"HTTP/1.1 200"), head
            if index % 2:
                seen.required.add(request_id)
            else:
                seen.relaxed[request_id] = (time.monotonic(), number)
    except (OSError, EOFError):
        return
    finally:
        writer.close()


def examine(journal: Path, kills: int, seen: Seen) -> Report:
    """Recover the folder as the next gateway would, and compare it with the answers that clients received."""
    recover(journal)
    requests: Counter[str] = Counter()
    ids: Counter[str] = Counter()
    for record in reader.records(journal):
        requests[record.request.id] += 1
        ids[record.id] += 1
    lost = [request_id for request_id in seen.relaxed if not requests[request_id]]
    segments = listed(journal)
    return Report(
        kills=kills,
        required=len(seen.required),
        missing=sum(requests[request_id] == 0 for request_id in seen.required),
        repeated=sum(count > 1 for count in requests.values()),
        relaxed=len(seen.relaxed),
        lost=len(lost),
        oldest_loss_s=max((seen.killed_at[number] - at for at, number in map(seen.relaxed.__getitem__, lost)), default=0.0),
        records=sum(ids.values()),
        repeated_ids=sum(count > 1 for count in ids.values()),
        segments=len(segments),
        unsound=sum(not verify(segment).is_sound for segment in segments),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    print(f"seed {options.seed}")  # noqa: T201 - it says its counts
    with tempfile.TemporaryDirectory(dir=".") as folder:
        report = asyncio.run(chaos(Path(folder), kills=options.kills, choose=random.Random(options.seed), say=print))
    print(report)  # noqa: T201 - it says its counts
    sys.exit(0 if report.is_good else 1)


if __name__ == "__main__":
    main()
