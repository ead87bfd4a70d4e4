import pytest

from anabranch.core.status import BODYLESS, REDIRECTS, fixed_fault, passed_on


@pytest.mark.parametrize("status", [200, 201, 202, 203, 204, 207, 300, 301, 303, 308, 400, 401, 404, 418, 451, 500, 503, 599])
def test_a_possible_status_stays_what_it_is(status: int) -> None:
    assert fixed_fault(status) is None
    assert passed_on(status) == status


@pytest.mark.parametrize("status", [-1, 0, 100, 101, 103, 199, 600, 999, 305, 306, 407, 426])
def test_an_impossible_status_is_none(status: int) -> None:
    assert fixed_fault(status) is not None
    assert passed_on(status) is None


@pytest.mark.parametrize("status", [205, 206, 226])
def test_a_success_that_speaks_of_another_body_is_a_plain_success(status: int) -> None:
    assert fixed_fault(status) is not None
    assert passed_on(status) == 200


def test_only_a_service_can_say_that_nothing_has_changed() -> None:
    assert fixed_fault(304) is not None
    assert passed_on(304) == 304


def test_no_redirect_is_without_a_body() -> None:
    assert not REDIRECTS & BODYLESS
