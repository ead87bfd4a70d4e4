"""Fills the memory for failed calls (`stale_if_error`) from the journal at startup. Reads the journal in a thread, and updates the store in the event loop.

Restores an answer only if the journal proves which call it belongs to. Request header fields are not recorded, so the call's fields must
all be fixed by the document; a digest of them identifies the call. Redacted answers are not restored.
"""

import asyncio
import logging
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import msgspec

from anabranch.cache.judge import judge, path_of
from anabranch.cache.keys import recorded_key
from anabranch.cache.memory import Memory
from anabranch.core.exchange import ANY_2XX, Answer, Request
from anabranch.journal.filter import Filter
from anabranch.journal.reader import records
from anabranch.journal.record import Step
from anabranch.journal.redact import MASK
from anabranch.plan.caching import CachingPlan
from anabranch.plan.kinds.call import fallback_calls
from anabranch.plan.model import DocumentPlan

logger = logging.getLogger("anabranch.journal")


def origins_of(plan: DocumentPlan) -> dict[str, CachingPlan]:
    """The calls whose answers can be restored: the digest of each, and the plan with the greatest age."""
    origins: dict[str, CachingPlan] = {}
    for endpoint in plan.endpoints:
        for _, caching in fallback_calls(endpoint.steps):
            known = origins.get(caching.origin)
            if caching.origin and (known is None or _most_s(known) < _most_s(caching)):
                origins[caching.origin] = caching
    return origins


def _most_s(caching: CachingPlan) -> float:
    return caching.rule.stale_if_error_s or 0.0


class Restoring:
    """An async context manager: fills `memory` from the journal in `folder` in the background, and stops that on exit."""

    def __init__(self, memory: Memory, folder: Path, plan: DocumentPlan) -> None:
        self._memory = memory
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

    async def _restore(self, origins: Mapping[str, CachingPlan]) -> None:
        staging = Memory(self._plan.cache)
        try:
            await asyncio.to_thread(read_into, staging, self._folder, origins, self._stopping, now=datetime.now(UTC))
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                logger.warning("cannot restore stale answers from the journal %s: %s", self._folder, error.strerror or error)
            return
        self._memory.add_missing(staging)
        if len(staging):
            logger.info("restored %d stale answers from the journal", len(staging))


def read_into(store: Memory, folder: Path, origins: Mapping[str, CachingPlan], stopping: threading.Event, *, now: datetime) -> None:
    """Put the latest answers into `store`. Blocking. Raises OSError."""
    oldest = now - timedelta(seconds=max(map(_most_s, origins.values()), default=0.0))
    for record in records(folder, Filter(since=oldest)):
        if stopping.is_set():
            return
        for step in record.steps:
            if (caching := origins.get(step.origin.partition("/")[0])) is not None:
                _restore_step(store, step, caching, record.time.timestamp())


def _restore_step(store: Memory, step: Step, caching: CachingPlan, answered_s: float) -> None:
    if step.method is None or step.target is None or step.sent is not None or step.age_s is not None or MASK in step.target:
        return
    if step.status is None or not 200 <= step.status < 300 or (step.body is not None and not step.body.is_kept):
        return
    body = b"" if step.body is None else step.body.to_bytes()
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in step.headers.items()]
    answer = Answer(step.status, headers, body)
    key = recorded_key(step.origin, step.method, step.target)
    request = Request("GET", step.target)
    storing = judge(request, answer, caching.rule, success=ANY_2XX, requested_s=answered_s, received_s=answered_s)
    if step.method == "GET" and storing.entry is not None and not caching.fault_of(answer) and MASK.encode() not in body:
        store.put(msgspec.structs.replace(storing.entry, key=key, upstream=step.upstream, path=path_of(step.target)))
    else:
        store.discard(key)
