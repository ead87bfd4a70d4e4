"""The response header fields that tell how a request went: Server-Timing and Proxy-Status. Only outcomes go in, only bytes come out."""

from collections.abc import Sequence

from anabranch.engine.outcome import Outcome
from anabranch.errors import StepError, UpstreamStatus


def server_timing(outcomes: Sequence[Outcome]) -> bytes:
    """One entry a step, with the code of its failure as `desc`; for a compute with `queue` and `run` apart. Step names are tokens.

    **Source:** W3C Server Timing, section 4, by which readers pass over parameters that they do not know.
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
    """The entry of a compute, of a step that failed, or of one with an old answer."""
    entry = f"{outcome.step};dur={outcome.elapsed_s * 1000:.1f}"
    if outcome.run_s is not None:
        entry += f";queue={outcome.queue_s * 1000:.1f};run={outcome.run_s * 1000:.1f}"
    if outcome.failure is not None:
        return f'{entry};desc="{outcome.failure.code}"'
    return entry if outcome.stale_age_s is None else f'{entry};desc="stale"'


def proxy_status(outcomes: Sequence[Outcome]) -> bytes:
    """One member for each failed step; b"" when none failed. **Source:** RFC 9209 section 2, serialized as RFC 9651 section 4.1 says."""
    return ", ".join([_member(outcome.step, outcome.failure) for outcome in outcomes if outcome.failure is not None]).encode("ascii")


def cache_status(outcomes: Sequence[Outcome]) -> bytes:
    """One member for each step with an old answer; b"" when there is none. **Source:** RFC 9211 section 2."""
    return ", ".join(
        [
            f"anabranch;hit;detail=stale-if-error;key={sf_string(outcome.step)}"
            for outcome in outcomes
            if outcome.stale_age_s is not None and outcome.failure is None
        ]
    ).encode("ascii")


def age(outcomes: Sequence[Outcome]) -> bytes:
    """Whole seconds of the oldest of the old answers. **Source:** RFC 9111 section 5.1."""
    return b"%d" % max((outcome.stale_age_s for outcome in outcomes if outcome.stale_age_s is not None), default=0.0)


def _member(step: str, failure: StepError) -> str:
    error = f";error={failure.proxy_error}" if failure.proxy_error else ""
    received = f";received-status={failure.upstream_status}" if isinstance(failure, UpstreamStatus) else ""
    return f"anabranch{error}{received};details={sf_string(f'{step}: {failure.code}')}"


def sf_string(text: str) -> str:
    """A structured-field string. What is not printable ASCII becomes `?`. **Source:** RFC 9651 section 4.1.6."""
    safe = "".join([char if " " <= char <= "~" else "?" for char in text])
    return '"' + safe.replace("\\", "\\\\").replace('"', '\\"') + '"'
