import orjson
import pytest

from anabranch.edge import problems
from anabranch.errors import BreakerOpen, DependencyFailed, InvalidParameters, MethodNotAllowed, QueueFull, UpstreamStatus, UpstreamTimeout
from tests.support.edge_plans import outcome, result


def test_request_error_becomes_a_problem_that_lists_its_faults() -> None:
    error = InvalidParameters("two things", errors=[{"in": "query", "name": "a", "detail": "is required"}])
    problem = problems.of_request(error, b"r-1")
    assert problem.status == 400
    assert problem.headers == [(b"content-type", b"application/problem+json"), (b"x-request-id", b"r-1")]
    assert orjson.loads(problem.body) == {
        "type": "/problems/invalid_parameters",
        "title": "Missing or invalid parameters",
        "status": 400,
        "detail": "two things",
        "instance": "r-1",
        "errors": [{"in": "query", "name": "a", "detail": "is required"}],
    }


def test_header_fields_of_a_request_error_are_sent() -> None:
    problem = problems.of_request(MethodNotAllowed("no", headers={"allow": "GET"}), b"r")
    assert (b"allow", b"GET") in problem.headers
    assert "errors" not in orjson.loads(problem.body)


def test_failed_steps_are_listed_and_the_decisive_one_is_named() -> None:
    failure = UpstreamTimeout("no answer within 300 ms")
    failed = result(
        outcome("flight", elapsed_ms=300.04, failure=failure, attempts=3),
        outcome("airline"),
        outcome("plane", elapsed_ms=0, attempts=0, failure=DependencyFailed("flight failed")),
        status=504,
        failure=failure,
    )
    problem = problems.of_result(failed, b"r-2")
    assert problem.status == 504
    assert orjson.loads(problem.body) == {
        "type": "/problems/timeout",
        "title": "Upstream did not answer in time",
        "status": 504,
        "detail": "step 'flight': no answer within 300 ms",
        "instance": "r-2",
        "errors": [
            {"step": "flight", "upstream": "flights", "code": "timeout", "detail": "no answer within 300 ms", "attempts": 3, "elapsed_ms": 300.0},
            {"step": "plane", "upstream": "planes", "code": "dependency_failed", "detail": "flight failed", "attempts": 0, "elapsed_ms": 0.0},
        ],
    }  # fmt: skip


def test_failure_without_a_step_uses_its_own_text() -> None:
    failure = UpstreamTimeout("nothing was answered")
    assert orjson.loads(problems.of_result(result(status=504, failure=failure), b"r").body)["detail"] == "nothing was answered"


@pytest.mark.parametrize(("retry_after_s", "value"), [(None, b"1"), (0.2, b"1"), (1.0, b"1"), (4.1, b"5")])
def test_every_503_has_retry_after_in_whole_seconds(retry_after_s: float | None, value: bytes) -> None:
    failure = BreakerOpen("open", retry_after_s=retry_after_s)
    problem = problems.of_result(result(outcome("a", failure=failure), status=503, failure=failure), b"r")
    assert (b"retry-after", value) in problem.headers


def test_other_statuses_have_retry_after_only_from_the_service() -> None:
    assert problems.retry_after(UpstreamStatus(429), 429) is None
    assert problems.retry_after(UpstreamStatus(429, retry_after_s=7), 429) == b"7"
    assert problems.retry_after(QueueFull("full"), 503) == b"1"


def test_unexpected_failure_reveals_nothing() -> None:
    problem = problems.internal(b"r-3")
    document = orjson.loads(problem.body)
    assert (problem.status, document["type"], document["instance"]) == (500, "/problems/internal_error", "r-3")


def test_bare_status_has_no_page() -> None:
    document = orjson.loads(problems.of_status(403, "Forbidden", "not yours", b"r", [{"why": object}]).body)
    assert document["type"] == "about:blank"
    assert document["detail"] == "not yours"
    assert len(document["errors"]) == 1


def test_type_is_the_url_of_the_page_below_the_clients_prefix() -> None:
    failure = UpstreamTimeout("late")
    made = [
        problems.of_request(MethodNotAllowed("no"), b"r", "/gw"),
        problems.of_result(result(status=504, failure=failure), b"r", "/gw"),
        problems.of_failure(failure, b"r", "/gw"),
        problems.internal(b"r", "/gw"),
    ]
    assert [orjson.loads(problem.body)["type"] for problem in made] == [
        "/gw/problems/method_not_allowed", "/gw/problems/timeout", "/gw/problems/timeout", "/gw/problems/internal_error",
    ]  # fmt: skip
