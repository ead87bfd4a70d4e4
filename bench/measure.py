"""Runs workloads: starts the servers, checks their responses, measures them in interleaved rounds and collects the figures.

Peers take turns within each round, so that other work on the machine affects all of them equally.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench import bodies, cases, exchange
from bench.cases import Workload
from bench.growth import document, path_of
from bench.load import Job
from bench.peers import DOCUMENT, PEERS, YARDSTICKS, Site
from bench.peers.floor import BODY as EMPTY
from bench.server import Cores, StartError, free_port, get, process, wait_until_up
from bench.trial import Trial, attempt, middle, run

_PATIENCE_S: Final = 120.0
_SHORTEST_TAIL_S: Final = 3.0  # a p99.9 needs thousands of requests, and a slow response takes a second
_SHORTEST_SATURATION_S: Final = 2.0  # a thousand clients get their responses in bursts, a second apart on a slow machine
_WARMUP_S: Final = 1.0
_FAST: Final = 1_000.0  # requests/s
_SETTLE_S: Final = 1.2  # until responses that take a second have reached a steady state


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`seconds`, `warmup_s`: of one trial. `clients`: overrides the workload's own number.
    `sizes`: numbers of endpoints to measure. `say`: called with lines about progress."""

    seconds: float
    warmup_s: float
    rounds: int
    clients: int | None
    sizes: tuple[int, ...]
    has_wrk: bool
    say: Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the report. `start_s`: time until the first response, for growth. `extra_calls`: calls of the slow service beyond one for
    each request, as a share, for hedging. `saturation`: maximum requests/s in a closed loop, for rows measured at half of it.
    `spread`: lowest and highest CPU time of the rounds, us."""

    peer: str
    title: str
    figures: Trial
    spread: tuple[float, float]
    start_s: float | None = None
    extra_calls: float | None = None
    saturation: float | None = None


@dataclass(slots=True, kw_only=True)
class Section:
    """The rows of one workload, and notes on what could not be measured and why."""

    workload: Workload
    clients: int
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def row(self, peer: str) -> Row | None:
        """The row of `peer`, or None if it was not measured."""
        return next((row for row in self.rows if row.peer == peer), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A running server or yardstick. `pid`: its process, 0 for a yardstick that measures itself. `length`: of a correct body."""

    peer: str
    title: str
    port: int
    pid: int
    paths: tuple[str, ...]
    length: int
    start_s: float = 0.0


class Bench:
    """The services and everything else that trials need. Created by `opened`."""

    def __init__(self, options: Options, cores: Cores, folder: Path, ports: Sequence[int], upstream_pid: int) -> None:
        self.options = options
        self._cores = cores
        self._folder = folder
        self._ports = ports
        self._upstream_pid = upstream_pid
        self._rates: dict[int, float] = {}  # port to requests/s, of warmed-up servers

    def run(self, workload: Workload, peers: Sequence[str]) -> Section:
        """Measure one workload. The section's notes list peers that cannot run here."""
        section = Section(workload=workload, clients=self.options.clients or workload.clients)
        with ExitStack() as stack:
            subjects = list(self._subjects(stack, section, peers))
            match workload.method:
                case "closed":
                    self._closed(section, subjects)
                case "half":
                    self._half(section, subjects)
                case "hedging":
                    self._hedging(section, subjects)
                case "growth":
                    self._growth(section, stack, peers)
        return section

    # ------------------------------------------------------------------------------------------------------- methods

    def _closed(self, section: Section, subjects: Sequence[Subject]) -> None:
        for subject, trials in self._rounds(section, subjects, lambda subject: self._try(section, subject)):
            section.rows.append(row(subject, trials))

    def _half(self, section: Section, subjects: Sequence[Subject]) -> None:
        """Each server at half of its own saturation; the services alone at the rate of the first."""
        saturation = {subject.peer: self._saturation(section, subject) for subject in subjects if subject.pid != self._upstream_pid}
        rates = {peer: rate / 2 for peer, rate in saturation.items() if rate}
        first = next(iter(rates.values()), 1_000.0)
        able = [subject for subject in subjects if subject.peer in rates or subject.pid == self._upstream_pid]
        section.notes += [
            f"{subject.title} gave no correct answer at saturation and was left out" for subject in subjects if subject not in able
        ]
        for subject, trials in self._rounds(
            section, able, lambda subject: self._try(section, subject, rate=rates.get(subject.peer, first))
        ):
            section.rows.append(row(subject, trials, saturation=saturation.get(subject.peer)))

    def _hedging(self, section: Section, subjects: Sequence[Subject]) -> None:
        """Each server at half of its own saturation; Anabranch with hedging at the same rate as without, in the same process."""
        rates = {subject.peer: self._saturation(section, subject) / 2 for subject in subjects}
        variants: list[Subject] = []
        for subject in subjects:
            variants.append(subject)
            if subject.peer == "anabranch":
                rates["hedged"] = rates["anabranch"]
                variants.append(
                    Subject(
                        peer="hedged",
                        title=f"{subject.title}, hedged after 50 ms",
                        port=subject.port,
                        pid=subject.pid,
                        paths=(f"{section.workload.path}-hedged",),
                        length=subject.length,
                    )
                )
        extra: dict[str, list[float]] = {}

        def counted(subject: Subject) -> Trial:
            before = self._flaky_calls()
            trial = self._try(section, subject, rate=rates[subject.peer] or 1.0)
            extra.setdefault(subject.peer, []).append((self._flaky_calls() - before) / max(trial.sent, 1) - 1)
            return trial

        for subject, trials in self._rounds(section, variants, counted):
            shares = extra[subject.peer]
            section.rows.append(row(subject, trials, extra_calls=sum(shares) / len(shares), saturation=rates[subject.peer] * 2))

    def _growth(self, section: Section, stack: ExitStack, peers: Sequence[str]) -> None:
        """Anabranch with growing numbers of endpoints; requests are spread evenly over all endpoints."""
        if "anabranch" not in peers:
            section.notes.append("only Anabranch's endpoints grow")
        if "anabranch" not in peers or self._is_missing(section, "anabranch"):
            return
        subjects: list[Subject] = []
        for size in self.options.sizes:
            file = self._folder / f"endpoints-{size}.yaml"
            file.write_text(document(size))
            spread = tuple(path_of(size * position // 16) for position in range(16))
            title = f"{PEERS['anabranch'].title}, {size:,} endpoint{'s' * (size > 1)}"
            try:
                subject = self._start(stack, "anabranch", section.workload, paths=spread, document=file, title=title, name=f"h{size}")
            except StartError as problem:
                section.notes.append(str(problem))
                continue
            subjects.append(subject)
        for subject, trials in self._rounds(section, subjects, lambda subject: self._try(section, subject)):
            section.rows.append(row(subject, trials, start_s=subject.start_s))

    # --------------------------------------------------------------------------------------------------------- steps

    def _rounds(
        self, section: Section, subjects: Sequence[Subject], measure: Callable[[Subject], Trial]
    ) -> Iterator[tuple[Subject, list[Trial]]]:
        """Measure every subject once in each round. A subject that fails is skipped from then on, with a note."""
        trials: dict[str, list[Trial]] = {subject.peer: [] for subject in subjects}
        broken: set[str] = set()
        for number in range(self.options.rounds):
            for subject in subjects:
                if subject.peer in broken:
                    continue
                try:
                    trial = measure(subject)
                except (StartError, OSError) as problem:
                    broken.add(subject.peer)
                    section.notes.append(f"{subject.title} could not be measured: {problem}")
                    continue
                trials[subject.peer].append(trial)
                self.options.say(
                    f"{section.workload.key} {number + 1}/{self.options.rounds} {subject.title}: "
                    f"{trial.requests_per_s:,.0f}/s, {trial.cpu_us:,.0f} us, p99 {trial.p99_ms:.1f} ms, {sum(trial.errors.values())} errors"
                )
        return ((subject, trials[subject.peer]) for subject in subjects if trials[subject.peer])

    def _try(self, section: Section, subject: Subject, rate: float | None = None, *, is_warmup: bool = False) -> Trial:
        """Measure once. Before a subject's first trial comes an uncounted warm-up, for compilers and pools."""
        options = self.options
        if not subject.pid:
            return self._yardstick(section, subject)
        if subject.port not in self._rates:
            self._rates[subject.port] = 0.0
            self._rates[subject.port] = self._try(section, subject, is_warmup=True).requests_per_s
        method = section.workload.method
        is_tail = method == "hedging" and rate is not None
        is_search = method in {"half", "hedging"} and rate is None
        shortest_s = min(_SHORTEST_TAIL_S, options.seconds * 4) if is_tail else _SHORTEST_SATURATION_S if is_search else 0.0
        job = Job(
            port=subject.port,
            paths=list(subject.paths),
            length=subject.length,
            clients=section.clients,
            warmup_s=max(options.warmup_s, _SETTLE_S) if is_tail else options.warmup_s,
            seconds=_WARMUP_S if is_warmup else max(options.seconds, shortest_s),
            rate=rate,
            pid=subject.pid,
        )
        # wrk is only for fast servers: it would leave a slow one with abandoned requests, for no benefit. Saturation is measured with the
        # same generator that later produces half of it.
        has_wrk = options.has_wrk and not is_search and self._rates[subject.port] > _FAST
        return attempt(job, self._cores, has_wrk=has_wrk)

    def _yardstick(self, section: Section, subject: Subject) -> Trial:
        """Measure an exchange without a gateway, on the servers' core."""
        calls = section.workload.calls
        job = exchange.Job(
            targets=[(self._ports[call.service], call.path, len(bodies.encode(cases.documents()[call.path]))) for call in calls],
            clients=section.clients,
            warmup_s=self.options.warmup_s,
            seconds=self.options.seconds,
        )
        seconds = job.warmup_s + job.seconds
        return Trial.of(run("bench.exchange", list(subject.paths), job, cores=self._cores.server, seconds=seconds))

    def _saturation(self, section: Section, subject: Subject) -> float:
        """Requests/s in a closed loop, with our own generator, which also produces the open loop."""
        trial = self._try(section, subject)
        self.options.say(f"{section.workload.key} {subject.title}: saturated at {trial.requests_per_s:,.0f}/s")
        if trial.errors:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(trial.errors.items()))
            section.notes.append(f"{subject.title} at saturation: wrong or missing answers ({kinds})")
        return trial.requests_per_s

    def _flaky_calls(self) -> int:
        _, body = get(self._ports[0], "/-/counts")
        return int(json.loads(body)["flaky"])

    # ------------------------------------------------------------------------------------------------------ subjects

    def _subjects(self, stack: ExitStack, section: Section, peers: Sequence[str]) -> Iterator[Subject]:
        workload = section.workload
        if workload.method == "growth":
            return
        for peer in peers:
            if peer == "upstream":
                length = len(self._ask_upstream(workload.alone))
                title = f"{YARDSTICKS[peer]}, {workload.alone}"
                yield Subject(peer=peer, title=title, port=self._ports[0], pid=self._upstream_pid, paths=(workload.alone,), length=length)
            elif peer in YARDSTICKS:
                if peer == "wire" and (why := exchange.wire_is_missing()):
                    section.notes.append(f"{YARDSTICKS[peer]}: {why}")
                    continue
                yield Subject(peer=peer, title=YARDSTICKS[peer], port=0, pid=0, paths=(peer,), length=0)
            elif not self._is_missing(section, peer):
                try:
                    yield self._start(stack, peer, workload)
                except StartError as problem:
                    section.notes.append(str(problem))

    def _is_missing(self, section: Section, peer: str) -> bool:
        why = PEERS[peer].missing()
        if why:
            section.notes.append(f"{PEERS[peer].title} was skipped: {why}")
        return why is not None

    def _start(
        self,
        stack: ExitStack,
        peer: str,
        workload: Workload,
        *,
        paths: tuple[str, ...] = (),
        document: Path = DOCUMENT,
        title: str = "",
        name: str = "",
    ) -> Subject:
        """Start a peer and compare its first response with the correct one. Raises StartError."""
        port = free_port()
        services = tuple(f"http://127.0.0.1:{number}" for number in self._ports)
        start = PEERS[peer].start(Site(port=port, services=services, folder=self._folder, document=document))
        paths = paths or (workload.path,)
        log = self._folder / f"{workload.key}-{name or peer}.log"
        began = time.monotonic()
        with log.open("wb") as output:
            child = stack.enter_context(
                process(start.command, cores=self._cores.server, environment=start.environment, stdout=output, stderr=output)
            )
        title = title or PEERS[peer].title
        body = wait_until_up(title, child, port, paths[0], log, _PATIENCE_S)
        start_s = time.monotonic() - began
        correct = json.loads(EMPTY) if peer == "floor" else cases.expected(workload)
        if json.loads(body) != correct:
            raise StartError(f"{title} gives a wrong answer to {paths[0]}: {body[:300].decode(errors='replace')}")
        return Subject(peer=name or peer, title=title, port=port, pid=child.pid, paths=paths, length=len(body), start_s=start_s)

    def _ask_upstream(self, path: str) -> bytes:
        status, body = get(self._ports[0], path)
        if status != 200:
            raise StartError(f"the services answered {path} with {status}")
        return body


def row(
    subject: Subject,
    trials: Sequence[Trial],
    *,
    start_s: float | None = None,
    extra_calls: float | None = None,
    saturation: float | None = None,
) -> Row:
    """The median of `trials` as a row."""
    times = [trial.cpu_us for trial in trials]
    return Row(
        peer=subject.peer,
        title=subject.title,
        figures=middle(trials),
        spread=(min(times), max(times)),
        start_s=start_s,
        extra_calls=extra_calls,
        saturation=saturation,
    )


@contextmanager
def opened(options: Options, cores: Cores, folder: Path) -> Iterator[Bench]:
    """Start the services; stop them at the end of the block. `folder`: for generated documents and logs."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        (folder / "upstream.log").open("wb") as log,
        process([sys.executable, "-m", "bench.upstream"], cores=cores.load, stdout=subprocess.PIPE, stderr=log) as child,
    ):
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            raise StartError(f"the services did not start; see {folder.name}/upstream.log")
        yield Bench(options, cores, folder, json.loads(line), child.pid)
