"""Runs the requests of an endpoint whose clients select: each by the plan that is pruned to its selection.

The plans of the last used selections are kept. A new selection is read level by level: that needs no compilation, so a client that sends ever
other ones costs little. Once it has been used a few times, its projection is compiled.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from anabranch.engine.outcome import Result
from anabranch.engine.request import ClientRequest
from anabranch.jsontext.frame import MISSING
from anabranch.jsontext.select import Selection
from anabranch.plan.model import EndpointPlan, SelectPlan
from anabranch.plan.select import MOST_KEPT, prune

Run = Callable[[ClientRequest], Awaitable[Result]]

_COMPILED_AT: Final = 8
"""The use of a selection from which its projection is worth the compilation."""


class _Selected:
    """One selection: its plan, what runs it, and how often it was used."""

    __slots__ = ("plan", "run", "uses")

    def __init__(self, plan: EndpointPlan, run: Run) -> None:
        self.plan = plan
        self.run = run
        self.uses = 0


class Selecting:
    """`whole`: runs requests without a selection. `run_of`: what runs a plan that was pruned."""

    __slots__ = ("_kept", "_plan", "_run_of", "_slot", "_whole")

    def __init__(self, plan: EndpointPlan, select: SelectPlan, whole: Run, run_of: Callable[[EndpointPlan], Run]) -> None:
        self._plan = plan
        self._slot = select.slot
        self._whole = whole
        self._run_of = run_of
        self._kept: OrderedDict[bytes, _Selected] = OrderedDict()

    def run(self, request: ClientRequest) -> Awaitable[Result]:
        """See `anabranch.engine.run.Run`. The request has the pruned plan from then on."""
        selection = request.frame[self._slot]
        if selection is MISSING:
            return self._whole(request)
        selected = self._kept.get(selection.key)
        if selected is None:
            selected = self._keep(selection, is_projected=False)
        elif selected.uses == _COMPILED_AT - 1:
            selected = self._keep(selection, is_projected=True)
            selected.uses = _COMPILED_AT
        else:
            self._kept.move_to_end(selection.key)
        selected.uses += 1
        request.plan = selected.plan
        return selected.run(request)

    def _keep(self, selection: Selection, *, is_projected: bool) -> _Selected:
        plan = prune(self._plan, selection, is_projected=is_projected)
        selected = self._kept[selection.key] = _Selected(plan, self._run_of(plan))
        self._kept.move_to_end(selection.key)
        if len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        return selected
