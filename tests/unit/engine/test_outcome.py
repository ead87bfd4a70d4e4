"""What a service's status brings with it, and what is nobody's fault."""

import pytest

from anabranch.core.exchange import Answer
from anabranch.engine.outcome import status_failure
from anabranch.errors import ConnectError, DependencyFailed, StepError, UpstreamStatus, UpstreamTimeout
from tests.support.edge_plans import outcome, result


@pytest.mark.parametrize(
    ("status", "name"),
    [(401, b"www-authenticate"), (405, b"allow"), (416, b"content-range")],
)
def test_the_field_that_a_status_demands_is_kept(status: int, name: bytes) -> None:
    """RFC 9110 sections 15.5.2, 15.5.6 and 15.5.17."""
    answer = Answer(status, [(b"server", b"x"), (name, b"one"), (name, b"two"), (b"set-cookie", b"x")], b"")
    assert status_failure(answer).fields == ((name, b"one"), (name, b"two"))


def test_fields_that_would_blow_up_the_head_are_left_out() -> None:
    answer = Answer(401, [(b"www-authenticate", b"x" * 600), (b"www-authenticate", b"y" * 600)], b"")
    assert status_failure(answer).fields == ()


@pytest.mark.parametrize(("has_own_credentials", "status"), [(False, 401), (True, 502)])
def test_a_401_is_for_whose_credentials_they_were(has_own_credentials: bool, status: int) -> None:
    assert status_failure(Answer(401, [], b""), has_own_credentials=has_own_credentials).status == status


_NEEDS_ABSENT = DependencyFailed("x")
_NEEDS_ABSENT.is_absent = True


@pytest.mark.parametrize(
    ("failures", "is_absent"),
    [
        ([UpstreamStatus(404)], True),
        ([UpstreamStatus(410), UpstreamStatus(404)], True),
        ([UpstreamStatus(404), _NEEDS_ABSENT], True),
        ([UpstreamStatus(404), DependencyFailed("x")], False),
        ([UpstreamStatus(404), UpstreamStatus(500)], False),
        ([UpstreamStatus(403)], False),
        ([UpstreamTimeout("x")], False),
        ([ConnectError("x"), UpstreamStatus(404)], False),
        ([], False),
    ],
)
def test_only_what_services_do_not_have_is_absent(failures: list[StepError], is_absent: bool) -> None:
    steps = [outcome(f"s{number}", failure=failure) for number, failure in enumerate(failures)]
    assert result(*steps, outcome("fine")).is_absent is is_absent
