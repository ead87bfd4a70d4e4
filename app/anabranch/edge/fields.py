"""Renders outcomes as response header fields: Server-Timing, Proxy-Status, Cache-Status and Age."""

from collections.abc import Sequence

from anabranch.engine.outcome import Outcome
from anabranch.errors import StepError, UpstreamStatus


def server_timing(outcomes: Sequence[Outcome]) -> bytes:
    """One entry per step, with the code of its failure as `desc`; a compute also has `queue` and `run`. Step names are tokens.

    **Source:** W3C Server Timing, section 4: readers ignore unknown parameters.
    """
    return ", ".join(
        [
            f"{outcome.step};dur={outcome.elapsed_s * 1000:.1f}"
            if outcome.failure is None and outcome.run_s is None and outcome.stale_age_s is None
            else _timing(outcome)
            for outcome in outcomes
        ]
    ).encode("ascii")


def _timing(outcome: Outcome) -> str:
    """The entry of a compute, of a failed step, or of a step with a stale answer."""
    entry = f"{outcome.step};dur={outcome.elapsed_s * 1000:.1f}"
    if outcome.run_s is not None:
        entry += f";queue={outcome.queue_s * 1000:.1f};run={outcome.run_s * 1000:.1f}"
    if outcome.failure is not None:
        return f'{entry};desc="{outcome.failure.code}"'
    return entry if outcome.stale_age_s is None else f'{entry};desc="stale"'


def proxy_status(outcomes: Sequence[Outcome]) -> bytes:
    """One member for each failed step; b"" when none failed. **Source:** RFC 9209 section 2, serialized by RFC 9651 section 4.1."""
    return ", ".join([_member(outcome.step, outcome.failure) for outcome in outcomes if outcome.failure is not None]).encode("ascii")


def cache_status(outcomes: Sequence[Outcome]) -> bytes:
    """One member for each step with a stale answer; b"" when there is none. **Source:** RFC 9211 section 2."""
    return ", ".join(
        [
            f"anabranch;hit;detail=stale-if-error;key={sf_string(outcome.step)}"
            for outcome in outcomes
            if outcome.stale_age_s is not None and outcome.failure is None
        ]
    ).encode("ascii")


def age(outcomes: Sequence[Outcome]) -> bytes:
    """Age of the oldest stale answer, in whole seconds. **Source:** RFC 9111 section 5.1."""
    return b"%d" % max((outcome.stale_age_s for outcome in outcomes if outcome.stale_age_s is not None), default=0.0)


def _member(step: str, failure: StepError) -> str:
    error = f";error={failure.proxy_error}" if failure.proxy_error else ""
    received = f";received-status={failure.upstream_status}" if isinstance(failure, UpstreamStatus) else ""
    return f"anabranch{error}{received};details={sf_string(f'{step}: {failure.code}')}"


def sf_string(text: str) -> str:
    """A structured-field string. Characters outside printable ASCII become `?`. **Source:** RFC 9651 section 4.1.6."""
    safe = "".join([char if " " <= char <= "~" else "?" for char in text])
    return '"' + safe.replace("\\", "\\\\").replace('"', '\\"') + '"'
