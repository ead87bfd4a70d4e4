"""Renders outcomes as response header fields: Server-Timing, Proxy-Status, Cache-Status and Age.

Everywhere `numbers` is what stands in place of names; None: the names themselves.
"""

from collections.abc import Sequence
from typing import Final

from anabranch.engine.outcome import Outcome
from anabranch.errors import StepError, UpstreamStatus
from anabranch.plan.names import Numbers

_MOST_TIMING_BYTES: Final = 2048
_MOST_STATUS_BYTES: Final = 1024
"""All of a response's head should fit into 4 KiB: many proxies take no more by default."""


def server_timing(outcomes: Sequence[Outcome], numbers: Numbers | None = None) -> bytes:
    """One entry per step, with the code of a failure as `desc`; for a compute with `queue` and `run` in addition. Step names are tokens.

    At most 2 KiB: beyond that the failed steps come first, and `omitted` says how many entries are left out.

    **Source:** W3C Server Timing, section 4: readers ignore unknown parameters.
    """
    entries = [
        f"{outcome.step};dur={outcome.elapsed_s * 1000:.1f}"
        if outcome.failure is None
        and outcome.run_s is None
        and outcome.stale_age_s is None
        and not outcome.item_count
        and outcome.stand_in is None
        and numbers is None
        else _timing(outcome, numbers)
        for outcome in outcomes
    ]
    value = ", ".join(entries)
    if len(value) > _MOST_TIMING_BYTES:
        is_failed = [outcome.failure is not None or bool(outcome.item_failures) for outcome in outcomes]
        ordered = [entry for wanted in (True, False) for entry, failed in zip(entries, is_failed, strict=True) if failed is wanted]
        value = _bounded(ordered, _MOST_TIMING_BYTES, 'omitted;desc="{} more steps"')
    return value.encode("ascii")


def _bounded(entries: list[str], most_bytes: int, rest: str) -> str:
    """As many of the entries as fit, and `rest` with the number of the others. A head that is too large makes proxies refuse the response."""
    room = most_bytes - len(rest) - 8
    kept: list[str] = []
    for entry in entries:
        room -= len(entry) + 2
        if room < 0:
            break
        kept.append(entry)
    left = len(entries) - len(kept)
    return ", ".join([*kept, rest.format(left)] if left else kept)


def _step(outcome: Outcome, numbers: Numbers | None) -> str:
    return outcome.step if numbers is None else numbers.steps[outcome.step]


def _timing(outcome: Outcome, numbers: Numbers | None) -> str:
    """The entry of a compute, of a step that failed, or of one with a stale answer."""
    entry = f"{_step(outcome, numbers)};dur={outcome.elapsed_s * 1000:.1f}"
    if outcome.run_s is not None:
        entry += f";queue={outcome.queue_s * 1000:.1f};run={outcome.run_s * 1000:.1f}"
    if outcome.stand_in is not None:
        how = "first" if outcome.failure is None else "fallback"
        return f'{entry};desc="{how} {_step(outcome.stand_in, numbers)}"'
    if outcome.failure is not None:
        return f'{entry};desc="{outcome.failure.code}"'
    if shortfall := outcome.shortfall:
        return f'{entry};desc="{shortfall}"'
    return entry if outcome.stale_age_s is None else f'{entry};desc="stale"'


def proxy_status(outcomes: Sequence[Outcome], numbers: Numbers | None = None) -> bytes:
    """One member per failed step, at most 1 KiB; b"" when none failed. **Source:** RFC 9209 section 2, serialized as in RFC 9651 section 4.1."""
    members = [
        _member(_step(outcome, numbers), failure, outcome.shortfall)
        for outcome in outcomes
        if (failure := outcome.first_failure) is not None and not outcome.is_excused
    ]
    return _bounded(members, _MOST_STATUS_BYTES, 'anabranch;details="{} more steps failed"').encode("ascii")


def cache_status(outcomes: Sequence[Outcome], numbers: Numbers | None = None) -> bytes:
    """One member per step with a cache, at most 1 KiB; b"" when there is none. **Source:** RFC 9211 section 2."""
    members = [
        f"anabranch;{outcome.cache_use.status};key={sf_string(_step(outcome, numbers))}"
        for outcome in outcomes
        if outcome.cache_use is not None and outcome.failure is None
    ]
    return _bounded(members, _MOST_STATUS_BYTES, 'anabranch;detail="{} more steps"').encode("ascii") if members else b""


def has_stored(outcomes: Sequence[Outcome]) -> bool:
    """Whether an answer came from a cache, here or nearer to its service: an answer that was just generated has no age (RFC 9111 section 5.1)."""
    return any(
        outcome.cache_use.age_s >= 1 or outcome.cache_use.status.startswith("hit")
        for outcome in outcomes
        if outcome.cache_use is not None and outcome.failure is None
    )


def age(outcomes: Sequence[Outcome]) -> bytes:
    """Age of the oldest answer that a cache had to do with, in whole seconds. **Source:** RFC 9111 section 5.1."""
    return b"%d" % max(
        (outcome.cache_use.age_s for outcome in outcomes if outcome.cache_use is not None and outcome.failure is None), default=0.0
    )


def _member(step: str, failure: StepError, shortfall: str) -> str:
    error = f";error={failure.proxy_error}" if failure.proxy_error else ""
    received = f";received-status={failure.upstream_status}" if isinstance(failure, UpstreamStatus) else ""
    details = f"{step}: {failure.code}" + (f", {shortfall}" if shortfall else "")
    return f"anabranch{error}{received};details={sf_string(details)}"


def sf_string(text: str) -> str:
    """A structured-field string. Characters outside printable ASCII become `?`. **Source:** RFC 9651 section 4.1.6."""
    safe = "".join([char if " " <= char <= "~" else "?" for char in text])
    return '"' + safe.replace("\\", "\\\\").replace('"', '\\"') + '"'
