"""How long to wait before the next attempt. Pure: randomness and the time of day are handed in."""

from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime


def full_jitter(retry: int, *, backoff_s: float, max_backoff_s: float, random: Callable[[], float]) -> float:
    """Seconds to wait before retry number `retry` (from 1): drawn evenly from 0 to min(max_backoff_s, backoff_s * 2^(retry - 1)).

    Drawing the whole wait, and not only a part of it, spreads the retries of many callers that failed at the same moment best.
    `random`: draws from [0, 1).

    **Source:** Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
    """
    return float(random() * min(max_backoff_s, backoff_s * 2 ** (retry - 1)))


def retry_after_s(value: bytes, *, unix_now: float) -> float | None:
    """Seconds that a `Retry-After` field asks for; 0 for a date in the past; None when it cannot be understood.

    `unix_now`: seconds since 1970, to compare a date with.

    **Source:** RFC 9110 section 10.2.3 (delay-seconds or HTTP-date).
    """
    text = value.strip()
    if text.isdigit():
        # More digits than any sensible delay has: it never fits a deadline, and Python limits how many it converts.
        return float(text) if len(text) < 10 else float("inf")
    try:
        date = parsedate_to_datetime(text.decode("ascii"))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    # An HTTP-date is always GMT, also where the sender wrote -0000 or left the zone out.
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(date.timestamp() - unix_now, 0.0)
