"""Runs one case of a spec file over real sockets and reports every difference from its expectations.

Starts the scripted upstreams, then the gateway, then sends the requests, and finally compares the records of the upstreams. The function
that starts a gateway is an argument, so that the runner itself can be tested. The format is `tests.support.spec_model`.
"""

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from anabranch.errors import Problem
from tests.support import compare, raw_client
from tests.support.raw_client import FramingError, RawAnswer
from tests.support.record import Answers
from tests.support.scripted import ScriptedUpstream
from tests.support.serving import free_socket
from tests.support.spec_document import NOBODY, document_text, script
from tests.support.spec_model import Case, Count, ExpectedProblem, Sent, SpecError, Text

CASE_TIMEOUT_S = 60.0
SETTLE_S = 10.0
PATIENCE_S = 20.0

Start = Callable[[str, Path, dict[str, Any]], AbstractAsyncContextManager[int]]
"""Starts a gateway from document text, folder and settings; yields its port."""


class CaseFailed(AssertionError):
    """The results differ from the case's expectations. The message is the complete report."""


class _Run:
    """A running case: its upstreams, the gateway's port, the faults found and the results received."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.upstreams = {name: ScriptedUpstream(script(name, spec)) for name, spec in case.upstreams.items()}
        self.answers = Answers()
        for name, upstream in self.upstreams.items():
            try:
                upstream.join(self.upstreams, self.answers)
            except ValueError as fault:
                raise SpecError(f"upstream {name}: {fault}") from fault
        self.port = 0
        self.faults: list[str] = []
        self.received: list[str] = []

    # -------------------------------------------------------------------------------------------------------- requests

    async def request(self, sent: Sent, number: int) -> None:
        title = f"request {number} ({sent.send})"
        if not await self._happened(hits=sent.after_hits, aborted=sent.after_aborted, answers=sent.after_answers):
            waited_for = sent.model_dump(include={"after_hits", "after_aborted", "after_answers"}, exclude_unset=True)
            self.faults.append(f"{title}: timed out waiting for {waited_for}")
            return
        if sent.wait is not None:
            await asyncio.sleep(sent.wait)
        method, target = sent.send.split(" ")
        data = raw_client.render(method, target, *_content(sent), port=self.port)
        if sent.leave_after_hits is not None:
            async with raw_client.connection(self.port) as (_, writer):
                writer.write(data)
                if not await self._happened(hits=sent.leave_after_hits):
                    self.faults.append(f"{title}: timed out waiting for the hits {sent.leave_after_hits} before leaving")
            return
        began = asyncio.get_running_loop().time()
        try:
            answer = await raw_client.send(self.port, data, is_head=method == "HEAD")
        except FramingError as fault:
            self.faults.append(f"{title}: {fault}")
            return
        finally:
            self.answers.add()
        elapsed = asyncio.get_running_loop().time() - began
        self.received.append(_shown(title, answer, elapsed))
        self.faults += [f"{title}: {fault}" for fault in self._check(sent, answer, elapsed)]

    def _check(self, sent: Sent, answer: RawAnswer, elapsed: float) -> Iterator[str]:
        expect = sent.expect
        assert expect is not None
        all_of: dict[str, list[str]] = {}
        for name, value in answer.headers:
            all_of.setdefault(name, []).append(value)
        yield from compare.answer(expect, answer.status, all_of, answer.body)
        yield from compare.every_answer(answer.status, all_of, answer.body)
        if expect.within is not None and elapsed > expect.within:
            yield f"expected it within {expect.within:g} s, it took {elapsed:.3f} s"
        if expect.not_before is not None and elapsed < expect.not_before:
            yield f"expected it to take {expect.not_before:g} s or more, it took {elapsed:.3f} s"
        everything = answer.body + "\n".join(f"{name}: {value}" for name, value in answer.headers).encode()
        for name, upstream in self.upstreams.items():
            is_echo = any(b.echo for behaviours in upstream._routes.values() for b in behaviours)
            if f":{upstream.port}".encode() in everything and not is_echo:
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
            expected = (case.hits or {}).get(name, Count(0, 0))
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
            if "json_" in want.model_fields_set:
                yield from (f"{at}: body {fault}" for fault in compare.exact(want.json_, hit.json()))


def _reached(hits: int, aborted: int = 0) -> Callable[[ScriptedUpstream], bool]:
    return lambda upstream: len(upstream.hits) >= hits and upstream.aborted >= aborted


def _content(sent: Sent) -> tuple[list[tuple[str, str]], bytes | None]:
    headers = [(name, item) for name, value in sent.headers.items() for item in (value if isinstance(value, list) else [value])]
    body: bytes | None = None
    if "json_" in sent.model_fields_set:
        body = json.dumps(sent.json_, ensure_ascii=False).encode()
    elif sent.body is not None:
        body = sent.body.encode()
    elif sent.bytes_ is not None:
        body = sent.bytes_.encode("latin-1")
    elif sent.body_size is not None:
        body = b'"' + b"x" * (sent.body_size - 2) + b'"'
    body = None if body is None else body * sent.repeat
    if body is not None and not any(name.lower() == "content-type" for name, _ in headers):
        headers.append(("content-type", "application/json"))
    if body is not None and sent.chunks is not None:
        headers.append(("transfer-encoding", "chunked"))
        body = raw_client.in_chunks(body, sent.chunks)
    return [(name, value) for name, value in headers if value], body


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


# ---------------------------------------------------------------------------------------------------------------- running


async def run_case(case: Case, folder: Path, start: Start) -> None:
    """Run `case`. Raises CaseFailed with a report, or SpecError when the case cannot be run."""
    run = _Run(case)
    async with (
        asyncio.timeout(CASE_TIMEOUT_S),
        _watched(run.faults),
        _upstreams(run) as ports,
        start(document_text(case, ports, folder), folder, dict(case.settings)) as run.port,
    ):
        numbered = enumerate((sent for sent in case.requests for _ in range(sent.times)), 1)
        if case.together:
            async with asyncio.TaskGroup() as group:
                for number, sent in numbered:
                    group.create_task(run.request(sent, number), name=f"request {number}")
        else:
            for number, sent in numbered:
                await run.request(sent, number)
        await run.check_upstreams()
    if run.faults:
        raise CaseFailed(report(case.name, run.faults, run.received))


@contextlib.asynccontextmanager
async def _upstreams(run: _Run) -> AsyncIterator[dict[str, int]]:
    async with contextlib.AsyncExitStack() as stack:
        for upstream in run.upstreams.values():
            await stack.enter_async_context(upstream)
        nobody: socket.socket = stack.enter_context(contextlib.closing(free_socket()))  # reserves the port; never listens
        yield {name: upstream.port for name, upstream in run.upstreams.items()} | {NOBODY: nobody.getsockname()[1]}


@contextlib.asynccontextmanager
async def _watched(faults: list[str]) -> AsyncIterator[None]:
    """Reports faults that no response shows: exceptions logged by the server, unhandled exceptions, leaked tasks."""
    loop = asyncio.get_running_loop()
    before = asyncio.all_tasks()
    handler = _Errors(faults)
    loop.set_exception_handler(lambda _, context: faults.append(f"unhandled: {context.get('message')} {context.get('exception')!r}"))
    logging.getLogger("uvicorn.error").addHandler(handler)
    try:
        yield
        left = asyncio.all_tasks() - before
        faults += [f"a task is left over: {task.get_name()} {task.get_coro()}" for task in left]
    finally:
        logging.getLogger("uvicorn.error").removeHandler(handler)
        loop.set_exception_handler(None)


class _Errors(logging.Handler):
    def __init__(self, faults: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._faults = faults

    def emit(self, record: logging.LogRecord) -> None:
        self._faults.append(f"the server logged: {logging.Formatter().format(record)}")


# ----------------------------------------------------------------------------------------------------------- load problems


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
