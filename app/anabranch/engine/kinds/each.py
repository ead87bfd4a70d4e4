"""Runs a step once for every element of an array, some at once, or for many elements in one call.

The elements have copies of the request's frame, so that what one of them finds is seen by no other. All tasks are awaited before the step ends.
"""

from collections.abc import Callable
from time import perf_counter
from typing import Any, Final

from msgspec import Raw

from anabranch.compute.offload import Offload
from anabranch.core.tasks import some_at_once
from anabranch.engine.kinds.gather import Gatherer, SharedCall
from anabranch.engine.operation import Operation, read_value
from anabranch.engine.outcome import Outcome
from anabranch.engine.request import ClientRequest
from anabranch.errors import StepError, TooManyItems, UnexpectedAnswer
from anabranch.jsontext import raw
from anabranch.jsontext.frame import MISSING, Frame
from anabranch.jsontext.project import Row
from anabranch.plan.each import BatchPlan, EachPlan, plain_key
from anabranch.plan.left_out import LeftOut
from anabranch.plan.model import StepPlan
from anabranch.plan.value import as_json

_SOME_KEYS: Final = b'["some"]'


def bind(step: StepPlan, plan: EachPlan, inner: Operation, offload: Offload | None) -> Operation:
    """The operation of a step with `each`. `inner`: of one element, or of one batch."""
    batch = plan.batch
    gatherer = None if batch is None or batch.window_s is None else Gatherer(step, batch, inner, _but_for_the_keys(plan, batch))

    async def run(request: ClientRequest, outcome: Outcome, frame: Frame, deadline: float) -> bytes:
        results = await _Items(plan, inner, gatherer, request, outcome, frame, deadline).run()
        return await read_value(step, b"[" + b",".join(results) + b"]", frame, outcome, offload, deadline)

    return run


def _but_for_the_keys(plan: EachPlan, batch: BatchPlan) -> Callable[[Frame, ClientRequest], object]:
    def same(frame: Frame, request: ClientRequest) -> object:
        some = frame.copy()
        batch.fill(_SOME_KEYS, some)
        reached = () if request.arrival is None else request.arrival.reached()
        # Their calls may carry a token of the client: two tokens may see different things.
        identity = b"" if request.principal is None else request.principal.exact.identity
        return identity, plan.item.operation.sent(some, request.headers, reached, request.query)

    return same


class _Job:
    """What one run is for: the elements with the same key. `row`: of the first of them. `key`: JSON text. `plain`: for comparison."""

    __slots__ = ("key", "places", "plain", "row")

    def __init__(self, row: Row, place: int, key: bytes, plain: bytes) -> None:
        self.row = row
        self.places = [place]
        self.key = key
        self.plain = plain


class _Items:
    """The elements of one request. `_results`: JSON text by place, the default until there is a result."""

    __slots__ = ("_began", "_deadline", "_failures", "_frame", "_gatherer", "_inner", "_outcome", "_plan", "_request", "_results")

    def __init__(
        self,
        plan: EachPlan,
        inner: Operation,
        gatherer: Gatherer | None,
        request: ClientRequest,
        outcome: Outcome,
        frame: Frame,
        deadline: float,
    ) -> None:
        self._plan = plan
        self._inner = inner
        self._gatherer = gatherer
        self._request = request
        self._outcome = outcome
        self._frame = frame
        self._deadline = deadline
        self._failures: list[StepError] = []
        self._results: list[bytes] = []
        self._began = perf_counter()

    async def run(self) -> list[bytes]:
        """The result of each element, as JSON text."""
        plan, outcome = self._plan, self._outcome
        array = plan.items(self._frame)
        # Counting takes a tenth of what the rows of all elements take.
        if len(array) > 2 * plan.most and len(elements := raw.items(array) or []) > plan.most:
            if not plan.is_truncated:
                raise TooManyItems(f"{plan.source} has {len(elements)} elements, and `max_items` is {plan.most}")
            outcome.dropped_items = len(elements) - plan.most
            array = b"[" + b",".join(elements[: plan.most]) + b"]"
        rows = plan.rows(array)
        outcome.item_count = len(rows)
        outcome.item_failures = self._failures
        self._results = [plan.default] * len(rows)
        jobs = self._jobs(rows)
        batch = plan.batch
        if self._gatherer is not None:
            await self._with_others(self._gatherer, jobs)
        elif batch is None:
            await some_at_once(self._one, jobs, plan.at_once, can_fail=plan.is_required)
        else:
            chunks = [jobs[at : at + batch.size] for at in range(0, len(jobs), batch.size)]
            await some_at_once(self._batch, chunks, batch.at_once, can_fail=plan.is_required)
        return self._results + [plan.default] * outcome.dropped_items

    def _jobs(self, rows: list[Row]) -> list[_Job]:
        """What has to run, in the order of the elements."""
        plan = self._plan
        if plan.when is None and plan.key is None:
            return [_Job(row, place, b"", b"") for place, row in enumerate(rows)]
        jobs: list[_Job] = []
        known: dict[bytes, _Job] = {}
        frame = self._frame.copy()
        column = plan.key_column if plan.when is None else -1
        for place, row in enumerate(rows):
            key: Any = None
            if column < 0 or (key := row[column]) is MISSING or key == raw.NULL:
                try:
                    if not self._is_wanted(row, frame):
                        continue
                    key = None if plan.key is None else plan.key(frame)
                except LeftOut:
                    continue
                except StepError as error:
                    self._failed(error, [place])
                    continue
            if key is None:
                jobs.append(_Job(row, place, b"", b""))
                continue
            plain = plain_key(key)
            if (job := known.get(plain)) is not None:
                job.places.append(place)
            else:
                known[plain] = job = _Job(row, place, as_json(key), plain)
                jobs.append(job)
        return jobs

    def _is_wanted(self, row: Row, frame: Frame) -> bool:
        """Put an element into a frame; whether the step runs for it."""
        plan = self._plan
        for slot, value in zip(plan.slots, row, strict=True):
            frame[slot] = value
        return plan.when is None or plan.when(frame)

    async def _one(self, job: _Job) -> None:
        frame = self._frame.copy()
        for slot, found in zip(self._plan.slots, job.row, strict=True):
            frame[slot] = found
        value = await self._call(frame, job.places)
        if value is not None:
            for place in job.places:
                self._results[place] = value

    async def _batch(self, jobs: list[_Job]) -> None:
        """One call for the keys of all these jobs."""
        batch = self._plan.batch
        assert batch is not None
        frame = self._frame.copy()
        batch.fill(b"[" + b",".join([job.key for job in jobs]) + b"]", frame)
        places = [place for job in jobs for place in job.places]
        answer = await self._call(frame, places)
        if answer is not None:
            self._settle(batch, jobs, answer, frame)

    async def _with_others(self, gatherer: Gatherer, jobs: list[_Job]) -> None:
        """Have these jobs done together with those of other requests."""
        if not jobs:
            return
        by_key = {job.plain: job for job in jobs}
        try:
            calls = gatherer.join(self._request, self._frame, {plain: job.key for plain, job in by_key.items()}, self._deadline)
        except StepError as error:
            self._failed(error, [place for job in jobs for place in job.places])
            return
        except LeftOut:
            return  # there is nothing to ask for, as in a run of its own
        parts = [(shared, [by_key[plain] for plain in keys]) for shared, keys in calls]
        await some_at_once(self._part, parts, len(parts), can_fail=self._plan.is_required)

    async def _part(self, part: tuple[SharedCall, list[_Job]]) -> None:
        shared, jobs = part
        batch = self._plan.batch
        assert batch is not None
        try:
            answer = await shared.wait(self._deadline)
        except StepError as error:
            self._failed(error, [place for job in jobs for place in job.places])
        except LeftOut:
            pass
        else:
            self._settle(batch, jobs, answer, self._frame)
        finally:
            self._outcome.add(shared.outcome)

    def _settle(self, batch: BatchPlan, jobs: list[_Job], answer: bytes, frame: Frame) -> None:
        """Give each job its element of the answer."""
        places = [place for job in jobs for place in job.places]
        found = _by_key(answer, batch)
        if found is None:
            self._failed(UnexpectedAnswer("the answer to a batch is not an array; `target` leads to it", may_be_processed=True), places)
            return
        for job in jobs:
            element = found.get(job.plain)
            if element is None:
                continue
            try:
                value = bytes(element) if batch.shape is None else batch.shape(bytes(element), frame)
            except StepError as error:
                self._failed(error, job.places)
                continue
            for place in job.places:
                self._results[place] = value

    async def _call(self, frame: Frame, places: list[int]) -> bytes | None:
        """The value of one run; None when there is none. `places`: of the elements that it is for."""
        whole = self._outcome
        child = Outcome(whole.step, whole.upstream)
        began = perf_counter()
        child.started_s = whole.started_s + began - self._began
        try:
            child.raw = await self._inner(self._request, child, frame, self._deadline)
        except StepError as error:
            child.failure = error
            self._failed(error, places)
        except LeftOut as left_out:
            child.left_out = left_out.state
        finally:
            child.elapsed_s = perf_counter() - began
            whole.add(child)
        return child.raw

    def _failed(self, error: StepError, places: list[int]) -> None:
        """Note that these elements have no result. Raises the failure when the step is required."""
        if self._plan.is_required:
            raise error
        # A traceback keeps every local variable on its way, of as many calls as have failed, until the response is sent.
        error.__traceback__ = None
        self._failures += [error] * len(places)


def _by_key(answer: bytes, batch: BatchPlan) -> dict[bytes, Raw] | None:
    """The elements of an answer by their keys, the first of those with the same key; None when the answer is not an array."""
    array = raw.items(answer)
    if array is None:
        return None
    found: dict[bytes, Raw] = {}
    for element, (key,) in zip(reversed(array), reversed(batch.keys(answer)), strict=True):
        if isinstance(key, bytes) and key != raw.NULL:
            found[plain_key(key)] = element
    return found
