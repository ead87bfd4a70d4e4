"""A scripted resolver in the place of the system's: what each name has, or that nobody ever answers for it."""

import socket
import threading
from collections import Counter
from typing import Any, Final

import pytest

_REAL: Final = socket.getaddrinfo


class Silence:
    """No answer until `end` is called; then the addresses, or none."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._addresses: tuple[str, ...] = ()

    def end(self, *addresses: str) -> None:
        self._addresses = addresses
        self._ended.set()

    def wait(self) -> tuple[str, ...]:
        assert self._ended.wait(60), "the test never ended the silence"
        return self._addresses


class Zone:
    """Replaces `socket.getaddrinfo` for the names that it has; every other name is the system's.

    The value of a name: its addresses, an exception to raise, or a `Silence`. `asked`: look-ups of each name. `threads`: those that have not
    ended. A `Silence` that the test does not end is ended with it.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: dict[str, tuple[str, ...] | Exception | Silence] = {}
        self.asked: Counter[str] = Counter()
        self.threads: Counter[str] = Counter()
        monkeypatch.setattr(socket, "getaddrinfo", self._look_up)

    def close(self) -> None:
        for found in self.names.values():
            if isinstance(found, Silence):
                found.end()

    def _look_up(self, host: Any, port: Any, *args: Any, **options: Any) -> Any:
        found = self.names.get(host)
        if found is None:
            return _REAL(host, port, *args, **options)
        self.asked[host] += 1
        self.threads[host] += 1
        try:
            if isinstance(found, Silence):
                found = found.wait()
            if isinstance(found, Exception):
                raise found
            if not found:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return [info for ip in found for info in _REAL(ip, port, *args, **options)]
        finally:
            self.threads[host] -= 1
