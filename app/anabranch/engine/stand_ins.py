"""Steps that run only when another one asks for them: its fallback, when it has failed, or the members of an `any` step. For one request.

A step that has failed is settled only with its fallback. A step that nobody will ask for any more is settled without having run.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from time import monotonic
from typing import Any, Protocol

from anabranch.engine.outcome import Outcome, common_failure
from anabranch.errors import StepError, UpstreamTimeout
from anabranch.jsontext.frame import Frame
from anabranch.plan.left_out import LeftOut
from anabranch.plan.model import StepPlan

NOT_RUN = "not_run"
"""What explain calls a step that nobody has asked for."""


class Stopped(LeftOut):
    """Another member of the `any` step has answered."""

    state = "cancelled"


class Scheduler(Protocol):
    """What runs the steps. `outcomes`: None until a step is settled. `waiting`: for how many others each step waits, and for being asked."""

    outcomes: list[Outcome | None]
    waiting: list[int]

    def store(self, step: StepPlan, outcome: Outcome) -> list[int]:
        """Settle a step. Returns the indexes of the steps that can start now."""
        ...

    def unblock(self, step: StepPlan) -> list[int]:
        """What can start now that everything that a step waits for is settled."""
        ...

    def spawn(self, step: StepPlan) -> None: ...


class StandIns:
    """`_left`: how many steps may still ask for each one. `_waiting`: those whose failure waits for their fallback, by its index."""

    __slots__ = ("_asked", "_frame", "_left", "_races", "_run", "_running", "_steps", "_stopped", "_waiting")

    def __init__(self, run: Scheduler, steps: tuple[StepPlan, ...], frame: Frame) -> None:
        self._run = run
        self._steps = steps
        self._frame = frame
        self._left: dict[int, int] = {}
        for step in steps:
            for index in step.asks:
                self._left[index] = self._left.get(index, 0) + 1
        self._asked: set[int] = set()
        self._waiting: dict[int, list[tuple[StepPlan, Outcome]]] = {}
        self._races: dict[int, list[_Race]] = {}
        self._running: dict[int, asyncio.Task[bytes]] = {}
        self._stopped: set[int] = set()

    def fall_back(self, step: StepPlan, outcome: Outcome) -> list[int]:
        """A step has failed: ask for its fallback. Returns the indexes of the steps that can start now."""
        settled = self._run.outcomes[step.fallback]
        if settled is not None:
            return self._replace(step, outcome, settled)
        self._waiting.setdefault(step.fallback, []).append((step, outcome))
        return self._ask(step.fallback)

    def settled(self, step: StepPlan, outcome: Outcome) -> list[int]:
        """A step is settled: it asks for nothing any more, and those that have asked for it learn what became of it."""
        ready: list[int] = []
        for index in step.asks:
            self._left[index] -= 1
            if not self._left[index] and index not in self._asked and self._run.outcomes[index] is None:
                ready += self._run.store(self._steps[index], _left_out(self._steps[index], NOT_RUN))
        for asker, failed in self._waiting.pop(step.index, ()):
            ready += self._replace(asker, failed, outcome)
        for race in self._races.pop(step.index, ()):
            race.settle(outcome)
        return ready

    async def first_of(self, step: StepPlan, outcome: Outcome, deadline: float) -> bytes:
        """The value of the first member of an `any` step that has one; the others are stopped. Raises StepError when all have failed, LeftOut when all were
        left out."""
        race = _Race(len(step.members))
        for index in step.members:
            known = self._run.outcomes[index]
            if known is None:
                self._races.setdefault(index, []).append(race)
            else:
                race.settle(known)
        try:
            for index in step.members:
                if not race.end.done():
                    self._start(self._ask(index))
            await asyncio.wait((race.end,), timeout=None if step.timeout_s is None else max(deadline - monotonic(), 0.0))
        finally:
            for index in step.members:
                if race in (races := self._races.get(index, [])):
                    races.remove(race)
            for index in step.members:
                self._stop(index)
        if not race.end.done():
            raise UpstreamTimeout("none of the steps had answered before the timeout")
        winner = race.end.result()
        members = [member for index in step.members if (member := self._run.outcomes[index]) is not None]
        failures = [member.failure for member in members if member.failure is not None and member.raw is None]
        failures += [failure for member in members if member.is_in_vain for failure in member.item_failures]
        if winner is None:
            if not failures:
                raise LeftOut
            raise common_failure(failures, failures, "all of the steps failed")
        self._excuse(step.members)
        outcome.stand_in = winner
        assert winner.raw is not None
        return winner.raw

    async def interruptible(self, index: int, work: Callable[[], Coroutine[Any, Any, bytes]]) -> bytes:
        """Run a step so that it can be stopped alone. Raises Stopped."""
        if index in self._stopped:
            raise Stopped
        task = self._running[index] = asyncio.get_running_loop().create_task(work())
        try:
            return await task
        except asyncio.CancelledError:
            own = asyncio.current_task()
            if index in self._stopped and (own is None or not own.cancelling()):
                raise Stopped from None
            raise
        finally:
            del self._running[index]

    def _ask(self, index: int) -> list[int]:
        """Let a step run that waits for it. Returns the indexes of the steps that can start now."""
        step, run = self._steps[index], self._run
        if not step.is_on_demand or index in self._asked or run.outcomes[index] is not None:
            return []
        self._asked.add(index)
        run.waiting[index] -= 1
        return [] if run.waiting[index] else run.unblock(step)

    def _replace(self, step: StepPlan, outcome: Outcome, settled: Outcome) -> list[int]:
        """Settle a step that has failed with the value of its fallback, if that has one."""
        if settled.raw is not None:
            assert step.stand_in is not None
            try:
                outcome.raw = step.stand_in(settled.raw, self._frame)
                outcome.stand_in = settled
                outcome.is_excused = True
                self._excuse(step.members)
            except StepError:
                pass  # a value that cannot be merged is none
        return self._run.store(step, outcome)

    def _excuse(self, indexes: Sequence[int]) -> None:
        """Do not count the failures of steps that only stood in for another one, which has a value from elsewhere, nor of those that stood in for them."""
        for index in indexes:
            step, outcome = self._steps[index], self._run.outcomes[index]
            if outcome is not None and step.is_only_stand_in:
                outcome.is_excused = True
                if outcome.raw is None:
                    self._excuse(step.asks)

    def _stop(self, index: int) -> None:
        """End a member that has lost, unless somebody else uses it."""
        step = self._steps[index]
        if not step.is_only_stand_in or index not in self._asked or self._run.outcomes[index] is not None:
            return
        failed = self._waiting.get(step.fallback, [])
        mine = next((entry for entry in failed if entry[0] is step), None)
        if mine is None and not self._run.waiting[index]:
            self._stopped.add(index)
            if (task := self._running.get(index)) is not None:
                task.cancel()
            return
        if mine is not None:
            failed.remove(mine)
            self._stop(step.fallback)
        self._start(self._run.store(step, _left_out(step, NOT_RUN if mine is None else Stopped.state)))

    def _start(self, ready: list[int]) -> None:
        for index in ready:
            self._run.spawn(self._steps[index])


class _Race:
    """`end`: the first outcome with a value, None when there is none. `_left`: steps that are not settled."""

    __slots__ = ("_left", "end")

    def __init__(self, members: int) -> None:
        self._left = members
        self.end: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()

    def settle(self, outcome: Outcome) -> None:
        self._left -= 1
        is_good = outcome.raw is not None and not outcome.is_in_vain
        if not self.end.done() and (is_good or not self._left):
            self.end.set_result(outcome if is_good else None)


def _left_out(step: StepPlan, state: str) -> Outcome:
    outcome = Outcome(step.name, step.upstream)
    outcome.left_out = state
    return outcome
