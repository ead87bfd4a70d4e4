"""How long to wait before the next attempt. Pure: randomness and the time of day are arguments."""

from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime


def full_jitter(retry: int, *, backoff_s: float, max_backoff_s: float, random: Callable[[], float]) -> float:
    """Seconds to wait before retry number `retry` (from 1): uniform between 0 and min(max_backoff_s, backoff_s * 2^(retry - 1)).

    Randomizing the whole wait, not only a part of it, best spreads the retries of many callers that failed at the same moment.
    `random`: draws from [0, 1).

    **Source:** Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
    """
    return float(random() * min(max_backoff_s, backoff_s * 2 ** (retry - 1)))


def retry_after_s(value: bytes, *, unix_now: float) -> float | None:
    """The delay in seconds given by a `Retry-After` field; 0 for a date in the past; None if the value is invalid.

    `unix_now`: seconds since 1970, to compare a date with.

    **Source:** RFC 9110 section 10.2.3 (delay-seconds or HTTP-date).
    """
    text = value.strip()
    if text.isdigit():
        # Ten digits or more never fit a deadline, and Python limits how many digits it converts.
        return float(text) if len(text) < 10 else float("inf")
    try:
        date = parsedate_to_datetime(text.decode("ascii"))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    # An HTTP-date is always GMT, even if the sender wrote -0000 or omitted the zone.
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(date.timestamp() - unix_now, 0.0)
