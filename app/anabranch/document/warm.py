"""Fills the stale-if-error store from the journal at startup. Reads the journal in a thread, and updates the store in the event loop.

Restores an answer only if the journal proves which call it belongs to. Request header fields are not recorded, so the call's fields must
all be fixed by the document; a digest of them identifies the call. Redacted answers are not restored.
"""

import asyncio
import logging
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Self

from anabranch.cache.entries import StaleStore, age_of, may_be_stored, recorded_key
from anabranch.core.exchange import Answer, StaleRule
from anabranch.journal.filter import Filter
from anabranch.journal.reader import records
from anabranch.journal.record import Step
from anabranch.journal.redact import MASK
from anabranch.plan.kinds.call import stale_calls
from anabranch.plan.model import DocumentPlan

logger = logging.getLogger("anabranch.journal")


def origins_of(plan: DocumentPlan) -> dict[str, StaleRule]:
    """The calls whose answers can be restored: the digest of each, and the rule with the greatest age."""
    origins: dict[str, StaleRule] = {}
    for endpoint in plan.endpoints:
        for _, rule in stale_calls(endpoint.steps):
            known = origins.get(rule.origin)
            if rule.origin and (known is None or known.max_age_s < rule.max_age_s):
                origins[rule.origin] = rule
    return origins


class Restoring:
    """An async context manager: fills `store` from the journal in `folder` in the background, and stops that on exit."""

    def __init__(self, store: StaleStore, folder: Path, plan: DocumentPlan) -> None:
        self._store = store
        self._folder = folder
        self._plan = plan
        self._stopping = threading.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        origins = origins_of(self._plan)
        if origins:
            self._stopping.clear()
            self._task = asyncio.create_task(self._restore(origins), name="restore stale answers")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping.set()
        if self._task is not None:
            await asyncio.wait((self._task,))

    async def _restore(self, origins: Mapping[str, StaleRule]) -> None:
        bounds = self._plan.stale
        staging = StaleStore(max_entries=bounds.max_entries, max_bytes=bounds.max_bytes)
        try:
            await asyncio.to_thread(
                read_into, staging, self._folder, origins, self._stopping, wall_now=datetime.now(UTC), now_s=monotonic()
            )
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                logger.warning("cannot restore stale answers from the journal %s: %s", self._folder, error.strerror or error)
            return
        self._store.add_missing(staging)
        if len(staging):
            logger.info("restored %d stale answers from the journal", len(staging))


def read_into(
    store: StaleStore, folder: Path, origins: Mapping[str, StaleRule], stopping: threading.Event, *, wall_now: datetime, now_s: float
) -> None:
    """Put the latest answers into `store`. Blocking. `wall_now`, `now_s`: the same moment by the wall and the monotonic clock. Raises
    OSError."""
    oldest = wall_now - timedelta(seconds=max((rule.max_age_s for rule in origins.values()), default=0.0))
    for record in records(folder, Filter(since=oldest)):
        if stopping.is_set():
            return
        for step in record.steps:
            if (rule := origins.get(step.origin.partition("/")[0])) is not None:
                _restore_step(store, step, rule, now_s - (wall_now - record.time).total_seconds())


def _restore_step(store: StaleStore, step: Step, rule: StaleRule, since_s: float) -> None:
    if step.method is None or step.target is None or step.sent is not None or step.age_s is not None or MASK in step.target:
        return
    if step.status is None or not 200 <= step.status < 300 or (step.body is not None and not step.body.is_kept):
        return
    body = b"" if step.body is None else step.body.to_bytes()
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in step.headers.items()]
    answer = Answer(step.status, headers, body)
    key = recorded_key(step.origin, step.method, step.target)
    if may_be_stored(answer) and not rule.fault_of(answer) and MASK.encode() not in body:
        store.put(key, answer, since_s - age_of(answer))
    else:
        store.discard(key)
