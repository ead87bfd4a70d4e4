"""Answers are read from the journal unchanged, and the latest one wins."""

from collections.abc import Iterator

import msgspec
import pytest

from anabranch.config.journal import Redact
from anabranch.core.exchange import Address, Answer, Request
from anabranch.errors import ConnectError
from anabranch.journal.record import Content, Record, digested, kept
from anabranch.journal.redact import Redaction
from anabranch.plan.upstream import authority_of
from anabranch.replay.answers import RecordedAnswers, RecordedTransport
from tests.support.documents import upstream_plan
from tests.support.recorded import answered, failed, recorded

ADDRESS = Address(scheme="http", host="127.0.0.1", port=1)
RECORDS = [
    recorded("/x", b"{}", [answered("one", "a", "/one?q=1", b'{"n":1}', headers={"content-type": "application/json", "etag": "e"})]),
    recorded("/x", b"{}", [answered("one", "a", "/one?q=1", b'{"n":2}', headers={"etag": "f"}), answered("gone", "a", "/gone", b"no", status=404)]),
    recorded("/x", b"{}", [answered("one", "a", "/one?q=1", b"bad", status=503), failed("two", "b", "/two", "timeout")]),
    recorded("/x", b"{}", [answered("post", "a", "/p", b"1", method="POST", sent=kept(b'{"v": 1}'))]),
    recorded("/x", b"{}", [answered("post", "a", "/p", b"2", method="POST", sent=kept(b'{"v": 2}'))]),
    recorded("/x", b"{}", [answered("down", "b", "/down", b"", status=500)]),
    recorded("/x", b"{}", [msgspec.structs.replace(answered("bare", "b", "/bare", b"1"), body=digested(b"1"))]),
    recorded("/x", b"{}", [answered("secret", "b", "/secret?token=***", b'"s"')]),
]  # fmt: skip


@pytest.fixture
def answers() -> Iterator[RecordedAnswers]:
    found = RecordedAnswers(lambda: RECORDS, Redaction(Redact()))
    yield found
    found.close()


async def ask(answers: RecordedAnswers, upstream: str, target: str, method: str = "GET", body: bytes | None = None) -> Answer:
    return await RecordedTransport(answers, upstream_plan(upstream)).exchange(Request(method, target, body=body), ADDRESS, 1e9)


async def test_the_latest_good_answer_is_used_with_status_and_headers(answers: RecordedAnswers) -> None:
    assert await ask(answers, "a", "/one?q=1") == Answer(200, [(b"etag", b"f")], b'{"n":2}')
    assert (await ask(answers, "a", "/gone")).status == 404


async def test_a_recorded_failure_is_used_only_without_a_good_answer(answers: RecordedAnswers) -> None:
    assert (await ask(answers, "b", "/down")).status == 500


async def test_an_answer_is_matched_by_the_sent_body_else_the_latest_is_used(answers: RecordedAnswers) -> None:
    assert (await ask(answers, "a", "/p", "POST", b'{"v": 1}')).body == b"1"
    assert (await ask(answers, "a", "/p", "POST", b'{"v": 2}')).body == b"2"
    assert (await ask(answers, "a", "/p", "POST", b'{"v": 3}')).body == b"2"


async def test_redacted_values_match_any_value(answers: RecordedAnswers) -> None:
    assert (await ask(answers, "b", "/secret?token=abc")).body == b'"s"'


@pytest.mark.parametrize("target", ["/two", "/bare", "/one?q=2"])
async def test_a_call_without_a_recorded_answer_fails_with_that_reason(answers: RecordedAnswers, target: str) -> None:
    with pytest.raises(ConnectError, match="the journal has no answer from b to GET"):
        await ask(answers, "b", target)


async def test_every_authority_returns_a_token(answers: RecordedAnswers) -> None:
    a = upstream_plan("a", oauth2={"token_url": "http://127.0.0.1:1", "client_id": "us", "client_secret": "ours"})
    authority = RecordedTransport(answers, authority_of(a, max_response_bytes=1000))
    assert b"access_token" in (await authority.exchange(Request("POST", "/token"), ADDRESS, 1e9)).body
    assert (await RecordedTransport(answers, a).exchange(Request("GET", "/gone"), ADDRESS, 1e9)).status == 404


def test_a_sent_body_recorded_only_by_size_is_accepted() -> None:
    step = answered("one", "a", "/p", b"", status=404, method="POST", sent=Content(size=3))
    found = RecordedAnswers(lambda: [recorded("/x", b"", [step])], Redaction(Redact()))
    assert found.calls == 1
    found.close()


def test_calls_are_counted(answers: RecordedAnswers) -> None:
    assert answers.calls == 7


async def test_ten_thousand_calls_are_read_in_constant_memory() -> None:
    def many() -> Iterator[Record]:
        for number in range(10_000):
            yield recorded("/x", b"", [answered("one", "a", f"/one/{number}", b'"' + b"x" * 1000 + b'"')])

    import tracemalloc

    tracemalloc.start()
    try:
        answers = RecordedAnswers(many, Redaction(Redact()))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    try:
        assert answers.calls == 10_000
        assert peak < 2_000_000
        assert len((await ask(answers, "a", "/one/9999")).body) == 1002
    finally:
        answers.close()
