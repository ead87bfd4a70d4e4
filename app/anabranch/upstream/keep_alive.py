"""How long a service says that it keeps an idle connection.

**Source:** the Keep-Alive field of RFC 2068 section 19.7.1.1, which Node, Apache and others send.
"""

from typing import Final, NamedTuple

MARGIN: Final = 0.25
"""Part of the announced time that is not used, at most `MAX_MARGIN_S`: the service counts from when it sent its answer."""
MAX_MARGIN_S: Final = 1.0

_MAX_DIGITS: Final = 9


class KeepAlive(NamedTuple):
    """`idle_s`: seconds that the connection may be idle; None: not said. `requests`: how many more it may carry; None: not said."""

    idle_s: float | None
    requests: int | None

    def until(self, now: float) -> float:
        """The time (of `now`'s clock) from which the connection must not be used; `now` if it must not be used again at all."""
        if self.requests is not None and self.requests <= 0:
            return now
        return float("inf") if self.idle_s is None else now + self.idle_s

    def after_request(self) -> "KeepAlive":
        """What is left when the connection is used once more, and nothing new is said."""
        return self if self.requests is None else KeepAlive(self.idle_s, self.requests - 1)

    @classmethod
    def parse(cls, value: bytes) -> "KeepAlive":
        """Parse the values of all Keep-Alive lines, joined by commas. Of several values the smallest counts; what is no number is ignored."""
        timeout = requests = None
        for part in value.split(b","):
            name, _, text = part.partition(b"=")
            name = name.strip().lower()
            number = _leading_number(text.strip(b' \t"'))
            if number is None:
                continue
            if name == b"timeout":
                timeout = number if timeout is None else min(timeout, number)
            elif name == b"max":
                requests = number if requests is None else min(requests, number)
        return cls(None if timeout is None else timeout - min(timeout * MARGIN, MAX_MARGIN_S), requests)


def _leading_number(text: bytes) -> int | None:
    digits = text[: len(text) - len(text.lstrip(b"0123456789"))]
    return int(digits[:_MAX_DIGITS]) if digits else None
