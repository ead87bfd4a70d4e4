"""Makes the services of a document: the first one when the process starts, and another one at each reload."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from anabranch.cache.memory import Memory
from anabranch.compute.pools import make_pool
from anabranch.config.secrets import Secrets
from anabranch.document.auth import files_of
from anabranch.document.code import ProjectCode
from anabranch.document.compile import Compiled, compile_file, keep_routers, project_folders
from anabranch.document.service import Hiding, Hooks, Room, Service
from anabranch.document.store import open_store
from anabranch.document.upstreams import Opener
from anabranch.document.warm import Restoring
from anabranch.errors import Problem
from anabranch.journal.journal import Journal
from anabranch.plan.model import DocumentPlan
from anabranch.settings import Settings
from anabranch.sinks.open import Shippers
from anabranch.store.memory import MemoryStore
from anabranch.store.seam import Store
from anabranch.upstream.open import open_transport


class Services:
    """The services of one document. Also owns what outlives each of them: the memory of the cache, and the store in memory.

    `stand_in`: opens what answers in place of the upstreams; then no name is resolved, no record is shipped, and the store in memory stands in for the
    shared one. `hide`: hides the secrets of a document from the log, until the function that it returns is called. `rooms`: see `Service`.
    """

    def __init__(
        self,
        document: Path,
        compiled: Compiled,
        settings: Settings,
        *,
        hooks: Hooks,
        hide: Callable[[Secrets], Callable[[], None]],
        stand_in: Opener | None = None,
        rooms: Sequence[Room] = (),
    ) -> None:
        self._document = document
        self._routers = compiled.draft.document.routers
        self._settings = settings
        self._hooks = hooks
        self._hide = hide
        self._stand_in = stand_in
        self._rooms = rooms
        self._cached = Memory(compiled.plan.cache)
        self._memory = MemoryStore()
        self.code = ProjectCode()
        self.first = self._service(compiled)

    def again(self) -> Service:
        """A service for the document as it is now, not open yet. Blocking. What only a restart can change becomes a warning. Raises ConfigError."""
        compiled = compile_file(self._document)
        keep_routers(self._routers, compiled.draft)
        return self._service(compiled, self.code.changed())

    def restoring(self) -> Restoring | None:
        """What fills the store of old answers from the journal, from the start on; None without a journal."""
        journal = self.first.journal
        return None if journal is None else Restoring(self._cached, journal.folder, self.first.plan)

    def _service(self, compiled: Compiled, changes: Sequence[Problem] = ()) -> Service:
        plan = compiled.plan
        hooks = [hook for pool in plan.pools.values() for hook in pool.hooks]
        self.code.include([*hooks, *compiled.draft.document.routers], project_folders(self._document))
        certificates = [file for upstream in plan.upstreams.values() if upstream.tls is not None for file in upstream.tls.files]
        if plan.store is not None and plan.store.tls is not None:
            certificates += plan.store.tls.files
        journal, shippers = self._journal(plan)
        return Service(
            plan,
            digest=compiled.draft.digest,
            warnings=(*changes, *compiled.draft.problems.warnings),
            files=(*map(str, compiled.draft.files), *certificates, *files_of(plan.auth)),
            hooks=self._hooks,
            opener=self._stand_in or partial(open_transport, contexts=compiled.contexts),
            is_offline=self._stand_in is not None,
            pool_maker=partial(make_pool, stall_s=self._settings.hook_stall_s),
            journal=journal,
            shippers=shippers,
            cached=self._cached,
            memory=self._memory,
            store=self._store(compiled),
            rooms=self._rooms,
            workers=self._settings.workers,
            hiding=Hiding(partial(self._hide, compiled.draft.secrets)),
        )

    def _store(self, compiled: Compiled) -> Store | None:
        plan = compiled.plan.store
        if plan is None:
            return None
        return self._memory if self._stand_in is not None else open_store(plan, compiled.contexts)

    def _journal(self, plan: DocumentPlan) -> tuple[Journal | None, Shippers | None]:
        """The journal and what ships it; None when no endpoint keeps records. Answers that come from a journal are not recorded again."""
        if self._settings.from_journal is not None or not any(endpoint.is_recorded for endpoint in plan.endpoints):
            return None, None
        folder = self._settings.journal_path
        sizes = [size for size in (plan.journal.keep_size, self._settings.journal_keep_size) if size is not None]
        config = plan.journal.model_copy(update={"keep_size": min(sizes, default=None)})
        shippers = Shippers(config, folder) if config.sinks and self._stand_in is None else None
        return Journal(config, folder=folder, is_needed=None if shippers is None else shippers.is_needed), shippers
