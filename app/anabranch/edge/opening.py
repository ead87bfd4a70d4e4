"""Opens the gateway's parts: by the lifespan of the application, or at the first request where nobody runs the lifespan."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from starlette.types import Message, Send

from anabranch.document.part import Part
from anabranch.errors import ConfigError, StartError

logger = logging.getLogger("anabranch")


class Opening:
    """Holds the parts. `on_change`: called when they are all open, with True, and before they are closed, with False."""

    def __init__(self, on_change: Callable[[bool], None]) -> None:
        self.parts: list[Part] = []
        self.is_open = False
        self._on_change = on_change
        self._holding: asyncio.Task[None] | None = None
        self._opened: asyncio.Future[None] | None = None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Open the parts in their order; close them on exit. Does nothing while they are open. May be entered again afterwards."""
        if self.is_open:
            yield
            return
        async with AsyncExitStack() as exits:
            for part in self.parts:
                await exits.enter_async_context(part)
            self._set(is_open=True)
            try:
                yield
            finally:
                self._set(is_open=False)

    def _set(self, *, is_open: bool) -> None:
        self.is_open = is_open
        self._on_change(is_open)

    async def ensure(self) -> None:
        """Return when the parts are open. They stay open until the event loop ends, which cancels the task that holds them.

        Raises what a part raises when it is opened; the next call tries again. Cancelling one caller does not disturb the others.
        """
        if self.is_open:
            return
        if self._holding is None or self._holding.done():
            loop = asyncio.get_running_loop()
            self._opened = loop.create_future()
            self._holding = loop.create_task(self._hold(self._opened), name="hold the gateway open")
        assert self._opened is not None
        await asyncio.shield(self._opened)

    async def _hold(self, opened: "asyncio.Future[None]") -> None:
        try:
            async with self.opened():
                logger.info("opened at the first request, because the application's lifespan was not run; see docs/python-routes.md")
                opened.set_result(None)
                await asyncio.get_running_loop().create_future()
        except Exception as error:
            if not opened.done():
                opened.set_exception(error)
            else:
                logger.exception("the gateway could not be closed properly")


def with_reason(send: Send) -> Send:
    """The `send` of a lifespan. When a start fails for a reason that the operator can remove, it reports that sentence instead of a stack."""

    async def report(message: Message) -> None:
        error = sys.exception()
        if message["type"] == "lifespan.startup.failed" and isinstance(error, ConfigError | StartError):
            message = {**message, "message": str(error)}
        await send(message)

    return report
