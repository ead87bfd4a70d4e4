"""Whether a server is away and why: one log line when it goes, one for each other reason meanwhile, one when it is back."""

import logging
from time import monotonic
from typing import Final

logger = logging.getLogger("anabranch.store")


class Trouble:
    """`name`: in the log. `reason`: a sentence without an address; None while all is well."""

    __slots__ = ("_name", "_said", "_since", "reason")

    def __init__(self, name: str) -> None:
        self.reason: str | None = None
        self._name: Final = name
        self._since = 0.0
        self._said: set[str] = set()

    def begin(self, reason: str) -> None:
        if self.reason is None:
            self._since = monotonic()
            logger.warning("%s is away: %s", self._name, reason)
        elif reason not in self._said:
            logger.warning("%s is still away: %s", self._name, reason)
        self._said.add(reason)
        self.reason = reason

    def end(self) -> None:
        if self.reason is not None:
            self.reason = None
            self._said.clear()
            logger.warning("%s is back after %.1f s", self._name, monotonic() - self._since)
