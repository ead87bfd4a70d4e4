"""A recorded request is run through another document offline, and what would be answered otherwise is found."""

from typing import Any

import pytest

from app.config.journal import Redact
from app.config.model import Document
from app.config.problems import Problems
from app.edge.rerun import offline
from app.journal.compare import Ignored
from app.journal.record import Content, Record, Step, digested, kept
from app.journal.redact import Redaction
from app.journal.replay import EndpointReport, Replayer, failure_of
from app.plan.compile import compile_document
from app.plan.model import DocumentPlan
from tests.support.recorded import answered, failed, recorded

UPSTREAMS = {"a": {"url": "http://127.0.0.1:1"}, "b": {"url": "http://127.0.0.1:2"}}
STEPS: dict[str, Any] = {
    "one": {"upstream": "a", "path": "/one/{path.id}"},
    "two": {"upstream": "b", "path": "/two", "query": {"of": "{one.n}"}},
}
ONE = answered("one", "a", "/one/7", b'{"n":1,"t":"x"}')
TWO = answered("two", "b", "/two?of=1", b'{"m":2.0}')
WHOLE = recorded("/x/7", b'{"one":{"n":1,"t":"x"},"two":{"m":2.0}}', [ONE, TWO])


def plan_of(endpoint: dict[str, Any] | None = None, **document: Any) -> DocumentPlan:
    problems = Problems()
    endpoints = [{"path": "/x/{id}", "name": "x", "steps": STEPS, **(endpoint or {})}]
    whole = {"version": 1, "upstreams": UPSTREAMS, "endpoints": endpoints, **document}
    plan = compile_document(Document.model_validate(whole), problems)
    assert not problems.errors, [str(problem) for problem in problems.errors]
    return plan


async def replayed(plan: DocumentPlan, *records: Record, ignore: tuple[str, ...] = (), redact: Redact | None = None) -> EndpointReport:
    replayer = Replayer(Redaction(redact or Redact()), Ignored(ignore))
    async with offline(plan, replayer) as replaying:
        for record in records:
            await replaying.replay(record)
    (report,) = replayer.endpoints.values()
    assert replayer.has_difference == (report.different > 0)
    return report


async def test_an_unchanged_document_answers_the_same() -> None:
    report = await replayed(plan_of(), WHOLE)
    assert (report.replayed, report.same, report.different, report.respelled) == (1, 1, 0, 0)
    assert not report.dropped_calls


async def test_a_changed_pick_names_exactly_its_fields() -> None:
    steps = {**STEPS, "one": {**STEPS["one"], "pick": ["n"]}}
    report = await replayed(plan_of({"steps": steps}), WHOLE, WHOLE)
    assert report.different == 2
    assert list(report.fields) == ["one.t"]
    example = report.fields["one.t"]["removed"]
    assert (example.record, example.before, example.records) == (WHOLE.id, '"x"', 2)


async def test_ignored_paths_are_noise() -> None:
    steps = {**STEPS, "one": {**STEPS["one"], "pick": ["n"]}}
    report = await replayed(plan_of({"steps": steps}), WHOLE, ignore=("one.t",))
    assert (report.same, report.different, report.respelled) == (1, 0, 0)


async def test_another_order_is_a_note_and_no_difference() -> None:
    body = {"two": "{two}", "one": "{one}"}
    report = await replayed(plan_of({"response": {"body": body}}), WHOLE)
    assert (report.same, report.respelled) == (1, 1)


async def test_a_call_that_was_not_recorded_is_said() -> None:
    steps = {**STEPS, "two": {"upstream": "b", "path": "/three"}}
    report = await replayed(plan_of({"steps": steps}), WHOLE)
    assert report.different == 1
    assert report.new_calls["b GET"].after == "/three"
    assert report.dropped_calls["b GET"].before == "/two?of=1"
    assert report.complete["complete -> incomplete"].records == 1
    assert list(report.fields) == ["two"]


@pytest.mark.parametrize("code", ["timeout", "connect_failed", "connection_lost", "breaker_open", "queue_full", "connect_timeout"])
async def test_recorded_failures_are_failures_again(code: str) -> None:
    record = recorded("/x/7", b'{"one":{"n":1,"t":"x"},"two":null}', [ONE, failed("two", "b", "/two?of=1", code)], complete=False)
    report = await replayed(plan_of(), record)
    assert (report.same, report.different) == (1, 0)


async def test_a_recorded_status_is_judged_by_the_new_document() -> None:
    record = recorded(
        "/x/7", b'{"type":"/problems/upstream_status","status":404,"detail":"old words"}', [answered("one", "a", "/one/7", b"{}", status=404)],
        status=404, complete=False, failure="upstream_status",
    )  # fmt: skip
    steps = {**STEPS, "one": {**STEPS["one"], "required": True}}
    strict = await replayed(plan_of({"steps": steps}), record)
    assert not strict.status
    lax = await replayed(plan_of(), record)
    assert list(lax.status) == ["404 -> 502"]


async def test_what_a_required_failure_cut_short_is_not_missed() -> None:
    """In the record the slow step is not there: it was cancelled. Now it must not count as a call that is new."""
    steps = {"slow": {"upstream": "b", "path": "/slow"}, "one": {"upstream": "a", "path": "/one/{path.id}", "required": True}}
    record = recorded(
        "/x/7", b'{"type":"/problems/upstream_status","title":"A service answered with an error","status":404}',
        [answered("one", "a", "/one/7", b"{}", status=404, failure="upstream_status")], status=404, complete=False, failure="upstream_status",
    )  # fmt: skip
    report = await replayed(plan_of({"steps": steps}), record, ignore=("errors",))
    assert (report.same, report.new_calls) == (1, {})


async def test_of_two_required_failures_the_earlier_decides_again() -> None:
    steps = {
        "one": {"upstream": "a", "path": "/one", "required": True},
        "two": {"upstream": "b", "path": "/two", "required": True},
    }
    late = answered("one", "a", "/one", b"{}", status=404, failure="upstream_status", elapsed_ms=50.0)
    early = answered("two", "b", "/two", b"{}", status=410, failure="upstream_status", elapsed_ms=5.0)
    record = recorded("/x/7", b"", [late, early], status=410, complete=False, failure="upstream_status")
    assert not (await replayed(plan_of({"steps": steps}), record)).status


async def test_a_removed_endpoint_is_reported() -> None:
    report = await replayed(plan_of({"path": "/y/{id}"}), WHOLE)
    assert report.is_removed
    report = await replayed(plan_of({"method": "PUT"}), WHOLE)
    assert report.is_removed


async def test_a_renamed_endpoint_is_the_same() -> None:
    assert (await replayed(plan_of({"name": "other"}), WHOLE)).same == 1


async def test_bodies_that_are_sent_tell_calls_apart() -> None:
    steps = {"one": {"upstream": "a", "path": "/p", "method": "POST", "body": {"v": "{body.v}"}}}
    endpoint = {"method": "POST", "path": "/x", "steps": steps}
    step = answered("one", "a", "/p", b'{"ok":true}', method="POST", sent=kept(b'{"v": 1.0}'))
    record = recorded("/x", b'{"one":{"ok":true}}', [step], method="POST", asked={"body": kept(b'{"v":1}')})
    assert (await replayed(plan_of(endpoint), record)).same == 1
    other = recorded("/x", b'{"one":{"ok":true}}', [step], method="POST", asked={"body": kept(b'{"v":2}')})
    assert (await replayed(plan_of(endpoint), other)).new_calls["a POST"].records == 1


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (recorded("/x/7", b"{}", [answered("one", "a", "/one/7", b"", headers={})]), None),
        (
            recorded("/x/7", b"{}", [answered("one", "a", "/one/7", b"")], asked={"body": digested(b"{}")}),
            "the body of the request was not kept",
        ),
    ],
)
async def test_what_is_not_in_the_record_is_not_guessed(record: Record, reason: str | None) -> None:
    report = await replayed(plan_of(), record)
    assert list(report.skipped) == ([] if reason is None else [reason])


async def test_records_without_the_services_answers_are_left_out() -> None:
    import msgspec

    bare = msgspec.structs.replace(ONE, body=digested(b'{"n":1}'))
    report = await replayed(plan_of(), recorded("/x/7", b"{}", [bare]))
    assert report.replayed == 0
    assert report.skipped == {"the services' answers were not kept (`bodies: steps` keeps them)": 1}


async def test_a_sent_body_of_which_only_the_size_is_known_leaves_the_record_out() -> None:
    endpoint = {"method": "POST", "path": "/x", "steps": {"one": {"upstream": "a", "path": "/p", "method": "POST", "body": {"v": 1}}}}
    step = Step(name="one", upstream="a", method="POST", target="/p", sent=Content(size=7), status=200, body=Content(size=2))
    report = await replayed(plan_of(endpoint), recorded("/x", b"{}", [step], method="POST"))
    assert (report.replayed, report.new_calls) == (0, {})


async def test_a_header_that_was_not_kept_and_is_needed_is_not_guessed() -> None:
    endpoint = {"parameters": {"x-who": {"in": "header", "required": True}}}
    assert list((await replayed(plan_of(endpoint), WHOLE)).skipped) == [
        "the header x-who was not kept (`journal: {headers: [x-who]}` keeps it)"
    ]
    kept_record = recorded("/x/7", b'{"one":{"n":1,"t":"x"},"two":{"m":2.0}}', [ONE, TWO], asked={"headers": {"x-who": "me"}})
    assert (await replayed(plan_of(endpoint), kept_record)).same == 1


async def test_redacted_values_are_no_difference() -> None:
    redact = Redact(paths=["card"])
    step = answered("one", "a", "/one?token=***", b'{"card":"***","n":1}')
    steps = {"one": {"upstream": "a", "path": "/one", "query": {"token": "secret"}}}
    record = recorded("/x/7", b'{"one":{"card":"***","n":1}}', [step])
    assert (await replayed(plan_of({"steps": steps}), record, redact=redact)).same == 1


async def test_two_steps_with_the_same_call_get_their_own_answers() -> None:
    steps = {"one": {"upstream": "a", "path": "/s"}, "two": {"upstream": "a", "path": "/s"}}
    record = recorded("/x/7", b'{"one":1,"two":2}', [answered("one", "a", "/s", b"1"), answered("two", "a", "/s", b"2")])
    assert (await replayed(plan_of({"steps": steps}), record)).same == 1


def test_every_failure_of_a_call_can_be_raised_again() -> None:
    for code in ("timeout", "tls_failed", "resolve_failed", "response_too_large", "deadline_exceeded", "queue_timeout", "protocol_error"):
        assert failure_of(code).code == code
    assert failure_of("something_new").code == "upstream_error"
