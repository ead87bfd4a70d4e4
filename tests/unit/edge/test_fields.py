import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.edge.fields import proxy_status, server_timing, sf_string
from anabranch.errors import BreakerOpen, ComputeTimeout, ConnectError, DependencyFailed, UpstreamStatus, UpstreamTimeout
from tests.support.edge_plans import outcome


def test_server_timing_has_one_entry_for_each_step_with_the_failure_reason() -> None:
    outcomes = [
        outcome("flight", elapsed_ms=12.34),
        outcome("weather", elapsed_ms=300.06, failure=UpstreamTimeout("slow")),
        outcome("plane", elapsed_ms=0, failure=DependencyFailed("flight failed")),
    ]
    assert server_timing(outcomes) == b'flight;dur=12.3, weather;dur=300.1;desc="timeout", plane;dur=0.0;desc="dependency_failed"'


def test_proxy_status_has_one_member_for_each_failed_step() -> None:
    outcomes = [
        outcome("flight"),
        outcome("weather", failure=UpstreamTimeout("slow")),
        outcome("airline", failure=UpstreamStatus(404)),
        outcome("plane", failure=DependencyFailed("x")),
    ]
    assert proxy_status(outcomes) == (
        b'anabranch;error=http_response_timeout;details="weather: timeout", '
        b'anabranch;received-status=404;details="airline: upstream_status", '
        b'anabranch;details="plane: dependency_failed"'
    )


def test_proxy_status_is_empty_when_nothing_failed() -> None:
    assert proxy_status([outcome("flight")]) == b""


@pytest.mark.parametrize(("text", "written"), [("plain", '"plain"'), ('a"b\\c', '"a\\"b\\\\c"'), ("ä\n", '"??"'), ("", '""')])
def test_string_is_escaped(text: str, written: str) -> None:
    assert sf_string(text) == written


@pytest.mark.parametrize("count", [0, 1, 100, 1000])
@pytest.mark.parametrize("name", ["s", "s" * 64])
def test_fields_of_many_steps_stay_small_and_mention_omitted_entries(count: int, name: str) -> None:
    failed = [outcome(f"{name}{number}"[-64:], failure=UpstreamTimeout("slow")) for number in range(count)]
    fine = [outcome(f"{name}{number}"[-64:]) for number in range(count)]
    timing = server_timing([*fine, *failed])
    status = proxy_status([*fine, *failed])
    assert len(timing) <= 2048
    assert len(status) <= 1024
    entries = timing.decode().split(", ")
    if count >= 100:
        *shown, rest = entries
        assert all('desc="timeout"' in entry for entry in shown)
        assert rest == f'omitted;desc="{2 * count - len(shown)} more steps"'
        assert status.endswith(f'anabranch;details="{count - len(status.decode().split(", ")) + 1} more steps failed"'.encode())
    elif count:
        assert len(entries) == 2 * count


class Reader:
    """A strict parser of structured-field lists of tokens with parameters. **Source:** RFC 9651 section 4.2."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def members(self) -> list[tuple[str, dict[str, str | int]]]:
        members = []
        while True:
            members.append((self.token(), self.parameters()))
            if self.at == len(self.text):
                return members
            assert self.text[self.at : self.at + 2] == ", "
            self.at += 2

    def token(self) -> str:
        start = self.at
        assert self.text[start].isalpha() or self.text[start] == "*"
        while self.at < len(self.text) and (self.text[self.at].isalnum() or self.text[self.at] in ":/!#$%&'*+-.^_`|~"):
            self.at += 1
        return self.text[start : self.at]

    def parameters(self) -> dict[str, str | int]:
        found: dict[str, str | int] = {}
        while self.at < len(self.text) and self.text[self.at] == ";":
            self.at += 1
            start = self.at
            while self.text[self.at].islower() or self.text[self.at] in "-_.*":
                self.at += 1
            key = self.text[start : self.at]
            assert key
            assert self.text[self.at] == "="
            self.at += 1
            found[key] = self.bare()
        return found

    def bare(self) -> str | int:
        if self.text[self.at] == '"':
            return self.string()
        if self.text[self.at].isdigit():
            start = self.at
            while self.at < len(self.text) and self.text[self.at].isdigit():
                self.at += 1
            return int(self.text[start : self.at])
        return self.token()

    def string(self) -> str:
        self.at += 1
        made = ""
        while (char := self.text[self.at]) != '"':
            assert " " <= char <= "~"
            if char == "\\":
                self.at += 1
                char = self.text[self.at]
                assert char in '"\\'
            made += char
            self.at += 1
        self.at += 1
        return made


@given(st.text(st.characters(codec="ascii", min_codepoint=32, max_codepoint=126)))
def test_serialized_string_parses_to_the_same_value(text: str) -> None:
    reader = Reader(sf_string(text))
    assert reader.string() == text
    assert reader.at == len(reader.text)


_NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,63}", fullmatch=True)
_FAILURES = st.sampled_from([UpstreamTimeout("x"), ConnectError("x"), BreakerOpen("x"), DependencyFailed("x"), UpstreamStatus(503)])


@given(st.lists(st.tuples(_NAMES, _FAILURES), min_size=1, max_size=5))
def test_proxy_status_can_be_parsed_by_a_strict_parser(failed: list[tuple[str, ConnectError]]) -> None:
    written = proxy_status([outcome(name, failure=failure) for name, failure in failed]).decode("ascii")
    members = Reader(written).members()
    assert [member for member, _ in members] == ["anabranch"] * len(failed)
    assert [parameters["details"] for _, parameters in members] == [f"{name}: {failure.code}" for name, failure in failed]


@given(st.floats(0, 1e6))
def test_durations_are_plain_decimals(elapsed_ms: float) -> None:
    written = server_timing([outcome("a", elapsed_ms=elapsed_ms)]).decode()
    assert math.isclose(float(written.removeprefix("a;dur=")), elapsed_ms, abs_tol=0.051)
    assert "e" not in written


def test_server_timing_of_a_compute_step_separates_queue_and_run_time() -> None:
    computed = outcome("delays", elapsed_ms=12.34)
    computed.queue_s, computed.run_s = 0.0012, 0.011
    assert server_timing([computed]) == b"delays;dur=12.3;queue=1.2;run=11.0"
    computed.failure = ComputeTimeout("x")
    assert server_timing([computed]) == b'delays;dur=12.3;queue=1.2;run=11.0;desc="compute_timeout"'
