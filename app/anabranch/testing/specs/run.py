"""Runs one case of a spec file over real sockets and reports every difference from its expectations.

Starts the scripted upstreams, then the gateway, then sends the requests, and finally compares the records of the upstreams. The function
that starts a gateway is an argument, so that the runner itself can be tested. The format is `anabranch.testing.specs.model`.
"""

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from uvicorn.loops.auto import auto_loop_factory

from anabranch.document.compile import compile_file
from anabranch.document.upstreams import Opener
from anabranch.errors import ConfigError, Problem
from anabranch.testing.application import Log, environment, gateway_process
from anabranch.testing.scripted.record import Answers
from anabranch.testing.scripted.upstream import ScriptedUpstream
from anabranch.testing.services import ScriptedServices
from anabranch.testing.serving import free_socket, serve
from anabranch.testing.specs import client, compare, forms
from anabranch.testing.specs.client import FramingError, RawAnswer
from anabranch.testing.specs.document import NOBODY, document_text
from anabranch.testing.specs.model import Case, Count, Expect, ExpectedProblem, Sent, Text
from anabranch.testing.specs.read import Spec, SpecError

CASE_TIMEOUT_S: Final = 60.0
SETTLE_S: Final = 10.0
PATIENCE_S: Final = 20.0
_SHOWN_LOG: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A gateway to be started. `opener`: of its upstreams; None: the addresses of the document are those of the scripted services."""

    document: Path
    settings: Mapping[str, Any]
    log: Log
    opener: Opener | None = None


Start = Callable[[Subject], AbstractAsyncContextManager[int]]
"""Starts a gateway, and yields its port."""


class CaseFailed(AssertionError):
    """The results differ from the case's expectations. The message is the complete report."""


@contextlib.asynccontextmanager
async def start_gateway(subject: Subject) -> AsyncIterator[int]:
    """Start the gateway as `anabranch run` does, in this loop."""
    process = gateway_process(subject.document, subject.settings, subject.log, subject.opener)
    async with serve(process.app, process.protocol) as port:
        yield port


def run_spec(spec: Spec) -> None:
    """Run one case of a file in an event loop of its own, so that nothing of one case can reach another.

    Raises CaseFailed with a report, or SpecError when the case cannot be run, be it for its document.
    """
    case = spec.case
    with TemporaryDirectory(prefix="anabranch-", ignore_cleanup_errors=True) as name, environment(case.env):
        folder = Path(name)
        for file, content in case.files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(content, "utf-8")
        try:
            if case.expect_problems is None:
                with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
                    runner.run(run_case(case, folder, start_gateway, document=spec.document))
            else:
                check_problems(case, problems_of(spec.document or _written(case, {NOBODY: 1, **dict.fromkeys(case.upstreams, 1)}, folder)))
        except ConfigError as error:
            raise SpecError([f"the document of the case {case.name!r} is not usable:", *error.problems]) from error
        except ValueError as error:  # a script or a setting
            raise SpecError([f"case {case.name!r}: {error}"]) from error


async def run_case(case: Case, folder: Path, start: Start, *, document: Path | None = None) -> None:
    """Run a case with requests. `folder`: of its files and of the gateway's. `document`: under test, when the case has none of its own.

    Raises CaseFailed with a report, ConfigError, and ValueError for what cannot be run.
    """
    answers = Answers()
    services = ScriptedServices(case.upstreams, answers)
    with Log() as log:
        run = _Run(case, services, answers, log)
        try:
            async with asyncio.timeout(CASE_TIMEOUT_S), _watched(run.faults), services, _nobody() as nobody:
                ports = {name: upstream.port for name, upstream in services.upstreams.items()} | {NOBODY: nobody}
                subject = Subject(
                    document=document or _written(case, ports, folder),
                    settings={"journal_path": folder / "journal", **case.settings},
                    log=log,
                    opener=None if document is None else services.open,
                )
                async with start(subject) as run.port:
                    if document is not None:
                        services.check_names(case.checked_upstreams)
                    await run.requests()
                    await run.check_upstreams()
        except TimeoutError:
            run.faults.append(f"the case took longer than {CASE_TIMEOUT_S:g} s")
    run.faults += services.traffic.unexpected
    run.faults += [f"the server logged: {error}" for error in log.server_errors]
    if run.faults:
        raise CaseFailed(report(case.name, run.faults, [*run.received, *_logged(log)]))


def _written(case: Case, ports: dict[str, int], folder: Path) -> Path:
    path = folder / "gateway.yaml"
    path.write_text(document_text(case, ports, folder), "utf-8")
    return path


class _Run:
    """A running case: its upstreams, the gateway's port, the faults found and the results received."""

    def __init__(self, case: Case, services: ScriptedServices, answers: Answers, log: Log) -> None:
        self.case = case
        self.upstreams = services.upstreams
        self.answers = answers
        self.log = log
        self.port = 0
        self.faults: list[str] = []
        self.received: list[str] = []

    async def requests(self) -> None:
        numbered = enumerate((sent for sent in self.case.requests for _ in range(sent.times)), 1)
        if not self.case.together:
            for number, sent in numbered:
                await self.request(sent, number)
            return
        async with asyncio.TaskGroup() as group:
            for number, sent in numbered:
                group.create_task(self.request(sent, number), name=f"request {number}")

    # -------------------------------------------------------------------------------------------------------- requests

    async def request(self, sent: Sent, number: int) -> None:
        title = f"request {number} ({sent.title})"
        if not await self._happened(hits=sent.after_hits, aborted=sent.after_aborted, answers=sent.after_answers):
            waited_for = sent.model_dump(include={"after_hits", "after_aborted", "after_answers"}, exclude_unset=True)
            self.faults.append(f"{title}: timed out waiting for {waited_for}")
            return
        if sent.wait is not None:
            await asyncio.sleep(sent.wait)
        data = _rendered(sent, self.port)
        if sent.leave_after_hits is not None:
            async with client.connection(self.port) as (_, writer):
                writer.write(data)
                if not await self._happened(hits=sent.leave_after_hits):
                    self.faults.append(f"{title}: timed out waiting for the hits {sent.leave_after_hits} before leaving")
            return
        assert sent.expect is not None
        began = asyncio.get_running_loop().time()
        try:
            answers = await client.send(self.port, data, count=len(sent.expect), is_head=sent.method == "HEAD", half_close=sent.half_close)
        except FramingError as fault:
            self.faults.append(f"{title}: {fault}")
            return
        finally:
            self.answers.add()
        elapsed = asyncio.get_running_loop().time() - began
        for expect, answer in zip(sent.expect, answers, strict=True):
            self.received.append(_shown(title, answer, elapsed))
            self.faults += [f"{title}: {fault}" for fault in self._check(expect, answer, elapsed)]

    def _check(self, expect: Expect, answer: RawAnswer, elapsed: float) -> Iterator[str]:
        all_of: dict[str, list[str]] = {}
        for name, value in answer.headers:
            all_of.setdefault(name, []).append(value)
        yield from compare.answer(expect, answer.status, all_of, answer.body)
        yield from compare.every_answer(expect, answer.status, all_of, answer.body)
        if expect.within is not None and elapsed > expect.within:
            yield f"expected it within {expect.within:g} s, it took {elapsed:.3f} s"
        if expect.not_before is not None and elapsed < expect.not_before:
            yield f"expected it to take {expect.not_before:g} s or more, it took {elapsed:.3f} s"
        everything = answer.body + "\n".join(f"{name}: {value}" for name, value in answer.headers).encode()
        for name, upstream in self.upstreams.items():
            if f":{upstream.port}".encode() in everything and not upstream.is_echo:
                yield f"the answer reveals the address of the upstream {name}"

    async def _happened(self, *, hits: dict[str, int], aborted: dict[str, int] | None = None, answers: int = 0) -> bool:
        """Wait until each upstream has had the given hits and aborted exchanges, and the client the given responses. False after the
        timeout."""
        aborted = aborted or {}
        try:
            for name in hits.keys() | aborted.keys():
                await self.upstreams[name].until(_reached(hits.get(name, 0), aborted.get(name, 0)), PATIENCE_S)
            await self.answers.until(lambda client: client.count >= answers, PATIENCE_S)
        except TimeoutError:
            return False
        return True

    # ---------------------------------------------------------------------------------------------------- the upstreams

    async def check_upstreams(self) -> None:
        case = self.case
        for name, upstream in self.upstreams.items():
            expected = ANY_COUNT if case.hits is None else case.hits.get(name, Count(0, 0))
            least = expected.low if isinstance(expected, Count) else sum(count.low for count in expected.values())
            aborted = case.aborted.get(name)
            # Cancelled exchanges reach the upstream a moment after the client has its response.
            with contextlib.suppress(TimeoutError):
                await upstream.until(_reached(least, 0 if aborted is None else aborted.low), SETTLE_S)
            self.faults += [f"upstream {name}: {fault}" for fault in _record(upstream, expected)]
            for what, wanted, actual in (
                ("aborted exchanges", aborted, upstream.aborted),
                ("requests at once", case.peak.get(name), upstream.max_concurrent),
                ("connections", case.connections.get(name), upstream.accepted),
            ):
                if wanted is not None and not wanted.allows(actual):
                    self.faults.append(f"upstream {name}: expected {wanted} {what}, got {actual}")
            self.faults += [f"upstream {name}: {fault}" for fault in self._seen(name, upstream)]
            lines = [f"{hit.method} {hit.target} on connection {hit.connection}" for hit in upstream.hits[:20]]
            self.received.append(
                f"upstream {name}: {len(upstream.hits)} hits, {upstream.aborted} aborted" + "".join(f"\n    {x}" for x in lines)
            )

    def _seen(self, name: str, upstream: ScriptedUpstream) -> Iterator[str]:
        expected = self.case.seen.get(name)
        if expected is None:
            return
        if len(expected) != len(upstream.hits):
            yield f"expected to see {len(expected)} requests, got {len(upstream.hits)}"
        for number, (want, hit) in enumerate(zip(expected, upstream.hits, strict=False), 1):
            at = f"request {number}"
            if want.method not in {None, hit.method}:
                yield f"{at}: expected method {want.method}, got {hit.method}"
            if isinstance(want.target, Text):
                if fault := want.target.fault(hit.target):
                    yield f"{at}: target: {fault}, got {hit.target}"
            elif want.target not in {None, hit.target}:
                yield f"{at}: expected target {want.target}, got {hit.target}"
            all_of: dict[str, list[str]] = {}
            for header, value in hit.headers:
                all_of.setdefault(header, []).append(value)
            yield from (f"{at}: {fault}" for fault in compare.headers(want.headers, all_of))
            if want.body is not None and hit.body != want.body.encode():
                yield f"{at}: expected body {want.body.encode()!r}, got {hit.body!r}"
            media_type = ", ".join(all_of.get("content-type", []))
            if want.form is not None:
                if media_type != "application/x-www-form-urlencoded":
                    yield f"{at}: expected a form, got {media_type}"
                yield from (f"{at}: {fault}" for fault in forms.form_faults(want.form, hit.body))
            if want.multipart is not None:
                yield from (f"{at}: {fault}" for fault in forms.multipart_faults(want.multipart, hit.body, media_type))
            if "json_" in want.model_fields_set:
                yield from (f"{at}: body {fault}" for fault in compare.exact(want.json_, hit.json()))


ANY_COUNT: Final = Count(0, sys.maxsize)


def _reached(hits: int, aborted: int = 0) -> Callable[[ScriptedUpstream], bool]:
    return lambda upstream: len(upstream.hits) >= hits and upstream.aborted >= aborted


def _rendered(sent: Sent, port: int) -> bytes:
    """The bytes of a request."""
    if sent.raw is not None:
        return sent.raw.encode("latin-1")
    method, target = (sent.send or "").split(" ")
    headers = [(name, item) for name, value in sent.headers.items() for item in (value if isinstance(value, list) else [value])]
    body: bytes | None = None
    media_type = "application/json"
    if "json_" in sent.model_fields_set:
        body = json.dumps(sent.json_, ensure_ascii=False).encode()
    elif sent.body is not None:
        body = sent.body.encode()
    elif sent.bytes_ is not None:
        body = sent.bytes_.encode("latin-1")
    elif sent.form is not None:
        body, media_type = forms.urlencoded(sent.form), "application/x-www-form-urlencoded"
    elif sent.multipart is not None:
        body, media_type = forms.multipart(sent.multipart)
    elif sent.body_size is not None:
        body = b'"' + b"x" * (sent.body_size - 2) + b'"'
    if body is not None:
        body *= sent.repeat
        if not any(name.lower() == "content-type" for name, _ in headers):
            headers.append(("content-type", media_type))
        if sent.chunks is not None:
            headers.append(("transfer-encoding", "chunked"))
            body = client.in_chunks(body, sent.chunks)
    return client.render(method, target, headers, body, port=port)


def _record(upstream: ScriptedUpstream, expected: Count | dict[str, Count]) -> Iterator[str]:
    if isinstance(expected, Count):
        if not expected.allows(len(upstream.hits)):
            yield f"expected {expected} hits, got {len(upstream.hits)}"
        return
    actual = {path: len(upstream.hits_of(path)) for path in upstream.counts}
    for path in sorted(expected.keys() | actual.keys()):
        want = expected.get(path, Count(0, 0))
        if not want.allows(actual.get(path, 0)):
            yield f"expected {want} hits on {path}, got {actual.get(path, 0)}"


def _shown(title: str, answer: RawAnswer, elapsed: float) -> str:
    names = ("content-type", "gateway-complete", "server-timing", "proxy-status", "retry-after", "allow", "location")
    lines = [f"    {name}: {value}" for name, value in answer.headers if name in names]
    body = answer.body.decode("utf-8", "backslashreplace")
    return "\n".join([f"{title} -> {answer.status} in {elapsed * 1000:.0f} ms", *lines, f"    {body[:1500]}"])


def _logged(log: Log) -> Iterator[str]:
    """What the gateway logged, the last lines of it."""
    for event in log.events[-_SHOWN_LOG:]:
        rest = " ".join(f"{key}={json.dumps(value, default=str)}" for key, value in event.items() if key not in {"time", "level", "event"})
        yield f"the gateway logged: {event['level']}: {event['event']} {rest}"


@contextlib.asynccontextmanager
async def _nobody() -> AsyncIterator[int]:
    """A reserved port on which nothing listens."""
    bound: socket.socket
    with contextlib.closing(free_socket()) as bound:
        yield bound.getsockname()[1]


@contextlib.asynccontextmanager
async def _watched(faults: list[str]) -> AsyncIterator[None]:
    """Reports faults that no response shows: exceptions logged by the server, unhandled exceptions, leaked tasks."""
    loop = asyncio.get_running_loop()
    before = asyncio.all_tasks()
    loop.set_exception_handler(lambda _, context: faults.append(f"unhandled: {context.get('message')} {context.get('exception')!r}"))
    try:
        yield
        left = asyncio.all_tasks() - before
        faults += [f"a task is left over: {task.get_name()} {task.get_coro()}" for task in left]
    finally:
        loop.set_exception_handler(None)


# ----------------------------------------------------------------------------------------------------------- load problems


def problems_of(document: Path) -> list[Problem]:
    """The mistakes for which a document is refused; the warnings about it when it is taken."""
    try:
        return compile_file(document).warnings
    except ConfigError as refused:
        return refused.problems


def check_problems(case: Case, found: list[Problem]) -> None:
    """Compare the problems found in a document with those expected: each exactly once, and no others. Raises CaseFailed.

    Unexpected warnings are ignored: the document works.
    """
    expected = case.expect_problems or []
    left = list(found)
    faults: list[str] = []
    for want in expected:
        match = next((problem for problem in left if _is_problem(want, problem)), None)
        if match is None:
            faults.append(f"expected a problem: {want.model_dump(exclude_defaults=True)}")
        else:
            left.remove(match)
    faults += [f"did not expect the problem: {problem}" for problem in left if not problem.is_warning]
    if not found and expected:
        faults.append("the document was accepted")
    if faults:
        raise CaseFailed(report(case.name, faults, [str(problem) for problem in found]))


def _is_problem(want: ExpectedProblem, problem: Problem) -> bool:
    texts = ((want.message, problem.message), (want.hint, problem.hint))
    return (want.path, want.is_warning) == (problem.path, problem.is_warning) and all(
        wanted in actual if isinstance(wanted, str) else not Text.fault(wanted, actual) for wanted, actual in texts
    )


def report(name: str, faults: list[str], received: list[str]) -> str:
    """The report of a failed run: the case, each fault, and everything received."""
    lines = [f"case {name!r}", "", *(f"- {fault}" for fault in faults), "", "received:", *(f"  {item}" for item in received)]
    return "\n".join(lines)
