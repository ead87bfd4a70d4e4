"""Good answers out of the journal, for calls that fail right after a start. Read in a thread, handed over in the loop.

Only what a journal can prove to belong to such a call: header fields of requests are not kept, so only calls whose fields are all fixed by the
document, told apart by a digest of these; and nothing that was redacted.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic

from anabranch.core.exchange import Answer
from anabranch.journal.reader import Filter, records
from anabranch.journal.record import Step
from anabranch.journal.redact import MASK
from anabranch.plan.model import DocumentPlan
from anabranch.policy.stale import StaleStore, age_of, is_json, may_be_stored, recorded_key

logger = logging.getLogger("anabranch.journal")


def origins_of(plan: DocumentPlan) -> dict[str, float]:
    """Whose answers can be taken from a journal: digests of calls, and how old such an answer may be, in seconds."""
    origins: dict[str, float] = {}
    for endpoint in plan.endpoints:
        for step in endpoint.steps:
            if step.stale is not None and step.stale.origin:
                origins[step.stale.origin] = max(step.stale.max_age_s, origins.get(step.stale.origin, 0.0))
    return origins


@asynccontextmanager
async def restoring(store: StaleStore, folder: Path, origins: Mapping[str, float], like: StaleStore) -> AsyncIterator[None]:
    """Fill `store` from the journal beside all else; it is given up on leaving. `like`: an empty store with the same bounds, read into."""
    stopping = threading.Event()

    async def restore() -> None:
        try:
            await asyncio.to_thread(read_into, like, folder, origins, stopping, wall_now=datetime.now(UTC), now_s=monotonic())
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                logger.warning("old answers are not restored from the journal %s: %s", folder, error.strerror or error)
            return
        store.add_missing(like)
        if len(like):
            logger.info("%d old answers were restored from the journal", len(like))

    task = asyncio.create_task(restore(), name="restore old answers")
    try:
        yield
    finally:
        stopping.set()
        await asyncio.wait((task,))


def read_into(
    store: StaleStore, folder: Path, origins: Mapping[str, float], stopping: threading.Event, *, wall_now: datetime, now_s: float
) -> None:
    """Put the latest answers into `store`. Blocking. `wall_now`, `now_s`: the same moment by both clocks. Raises OSError."""
    oldest = wall_now - timedelta(seconds=max(origins.values(), default=0.0))
    for record in records(folder, Filter(since=oldest)):
        if stopping.is_set():
            return
        for step in record.steps:
            if step.origin in origins:
                _remember(store, step, now_s - (wall_now - record.time).total_seconds())


def _remember(store: StaleStore, step: Step, since_s: float) -> None:
    if step.method is None or step.target is None or step.sent is not None or step.age_s is not None or MASK in step.target:
        return
    if step.status is None or not 200 <= step.status < 300 or (step.body is not None and not step.body.is_kept):
        return
    body = b"" if step.body is None else step.body.to_bytes()
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in step.headers.items()]
    answer = Answer(step.status, headers, body)
    key = recorded_key(step.origin, step.method, step.target)
    if may_be_stored(answer) and is_json(body) and MASK.encode() not in body:
        store.put(key, answer, since_s - age_of(answer))
    else:
        store.discard(key)
