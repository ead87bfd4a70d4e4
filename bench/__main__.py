"""`python -m bench`: measure Anabranch and its peers on the same workloads in one run."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from bench import report
from bench.cases import WORKLOADS, Workload
from bench.facts import facts
from bench.growth import SIZES
from bench.measure import Options, Section, opened
from bench.peers import PEERS, YARDSTICKS
from bench.server import Cores, StartError
from bench.targets import targets
from bench.trial import is_wrk_installed

RESULTS: Final = Path(__file__).parent / "results"
DOCUMENT: Final = Path(__file__).parent.parent / "docs" / "performance.md"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    lines = [f"  {workload.key}  {workload.title}" for workload in WORKLOADS]
    lines += ["", "peers:", *(f"  {name:10} {peer.title}" for name, peer in PEERS.items())]
    lines += [f"  {name:10} {title}" for name, title in YARDSTICKS.items()]
    command = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure Anabranch against its alternatives, in one run.",
        epilog="\n".join(["workloads:", *lines]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    keys = [workload.key for workload in WORKLOADS]
    command.add_argument("--workload", action="append", choices=keys, metavar="KEY", help="only this workload; may be repeated")
    command.add_argument("--peer", action="append", choices=[*PEERS, *YARDSTICKS], metavar="NAME", help="only this peer; may be repeated")
    command.add_argument("--seconds", type=float, help="length of one trial (default 2)")
    command.add_argument("--rounds", type=int, help="trials of each peer; the median is reported (default 3)")
    command.add_argument("--clients", type=int, help="number of connections (default: the workload's own)")
    command.add_argument("--quick", action="store_true", help="one short round: a check that it works, with rough figures")
    command.add_argument("--generator", choices=["wrk", "own"], help="load generator of closed loops (default: wrk if it is on PATH)")
    command.add_argument("--write-docs", action="store_true", help="write the results into the tables of docs/performance.md")
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. Exit codes: 0: measured, whatever the figures; 2: wrong usage; 3: a required process could not be started."""
    command = parser()
    options = command.parse_args(arguments)
    seconds = options.seconds or (0.5 if options.quick else 2.0)
    rounds = options.rounds or (1 if options.quick else 3)
    if seconds <= 0 or rounds < 1 or (options.clients is not None and options.clients < 1):
        command.error("--seconds, --rounds and --clients must be greater than zero")
    if options.generator == "wrk" and not is_wrk_installed():
        command.error("wrk is not on PATH; install it or use --generator own")
    has_wrk = options.generator == "wrk" or (options.generator is None and is_wrk_installed() and not options.quick)
    chosen = [workload for workload in WORKLOADS if options.workload is None or workload.key in options.workload]
    settings = Options(
        seconds=seconds,
        warmup_s=0.2 if options.quick else 0.3,
        rounds=rounds,
        clients=options.clients,
        sizes=SIZES[:-1] if options.quick else SIZES,
        has_wrk=has_wrk,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    known = facts("wrk above 1,000 requests/s, else bench.load" if has_wrk else "bench.load")
    available = os.sched_getaffinity(0)
    if len(available) < 2:
        print("Only one core: server, load generator and services share it, so only the CPU times are meaningful.", file=sys.stderr)
    sections: dict[str, Section] = {}
    try:
        with opened(settings, Cores.of(available), RESULTS) as bench:
            for workload in chosen:
                peers = _peers(workload, options.peer, is_quick=options.quick)
                sections[workload.key] = bench.run(workload, peers)
    except StartError as problem:
        print(f"bench: {problem}", file=sys.stderr)
        return 3
    judged = targets(sections)
    for section in sections.values():
        print(f"\n{section.workload.key}: {section.workload.title}")
        print(report.plain(report.table(section)))
        print("\n".join(f"  {line}" for line in report.remarks(section, rounds=rounds, seconds=seconds)))
    print(f"\ntargets\n{report.plain(report.verdicts(judged))}")
    report.write_json(RESULTS / "last.json", sections, judged, known)
    if options.write_docs:
        report.write_document(DOCUMENT, sections, judged, known, rounds=rounds, seconds=seconds)
    return 0


def _peers(workload: Workload, wanted: Sequence[str] | None, *, is_quick: bool) -> list[str]:
    """The peers to measure: the requested ones that suit the workload, else the workload's own. With `is_quick`, slow peers run only in the
    first workload."""
    if wanted:
        return [peer for peer in wanted if peer in workload.peers or (peer in PEERS and peer != "floor")]
    if is_quick and workload is not WORKLOADS[0]:
        return [peer for peer in workload.peers if peer not in {"textbook", "aiohttp", "upstream"}]
    return list(workload.peers)


def _end(number: int, frame: FrameType | None) -> None:
    """Make SIGTERM unwind like Ctrl-C, so that all started processes are stopped."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        sys.exit(130)
