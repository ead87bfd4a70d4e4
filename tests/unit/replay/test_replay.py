"""Runs recorded requests through another document offline and reports different answers."""

from typing import Any

import msgspec
import pytest

from anabranch.config.journal import Redact
from anabranch.config.model import Document
from anabranch.config.problems import Problems
from anabranch.journal.record import Content, Record, Step, digested, kept
from anabranch.journal.redact import Redaction
from anabranch.plan.compile import compile_document
from anabranch.plan.model import DocumentPlan
from anabranch.replay.compare import Ignored
from anabranch.replay.recording import failure_of
from anabranch.replay.replay import EndpointReport, Replayer
from anabranch.replay.rerun import offline
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


async def test_differences_at_ignored_paths_do_not_count() -> None:
    steps = {**STEPS, "one": {**STEPS["one"], "pick": ["n"]}}
    report = await replayed(plan_of({"steps": steps}), WHOLE, ignore=("one.t",))
    assert (report.same, report.different, report.respelled) == (1, 0, 0)


async def test_another_order_of_keys_is_a_note_and_not_a_difference() -> None:
    body = {"two": "{two}", "one": "{one}"}
    report = await replayed(plan_of({"response": {"body": body}}), WHOLE)
    assert (report.same, report.respelled) == (1, 1)


async def test_a_call_that_was_not_recorded_is_reported() -> None:
    steps = {**STEPS, "two": {"upstream": "b", "path": "/three"}}
    report = await replayed(plan_of({"steps": steps}), WHOLE)
    assert report.different == 1
    assert report.new_calls["b GET"].after == "/three"
    assert report.dropped_calls["b GET"].before == "/two?of=1"
    assert report.complete["complete -> incomplete"].records == 1
    assert list(report.fields) == ["two"]


@pytest.mark.parametrize("code", ["timeout", "connect_failed", "connection_lost", "breaker_open", "queue_full", "connect_timeout"])
async def test_recorded_failures_are_replayed_as_failures(code: str) -> None:
    record = recorded("/x/7", b'{"one":{"n":1,"t":"x"},"two":null}', [ONE, failed("two", "b", "/two?of=1", code)], complete=False)
    report = await replayed(plan_of(), record)
    assert (report.same, report.different) == (1, 0)


async def test_a_recorded_status_is_evaluated_by_the_new_document() -> None:
    record = recorded(
        "/x/7", b'{"type":"/problems/upstream_status","status":404,"detail":"old words"}', [answered("one", "a", "/one/7", b"{}", status=404)],
        status=404, complete=False, failure="upstream_status",
    )  # fmt: skip
    steps = {**STEPS, "one": {**STEPS["one"], "required": True}}
    strict = await replayed(plan_of({"steps": steps}), record)
    assert not strict.status
    lax = await replayed(plan_of(), record)
    assert not lax.status, "where every visible step has the same 4xx, it is the response's too"
    patient = await replayed(plan_of({"steps": {**STEPS, "one": {**STEPS["one"], "default": {"n": 1}}}}), record)
    assert list(patient.status) == ["404 -> 502"]


async def test_a_call_cancelled_by_a_required_failure_is_not_a_new_call() -> None:
    """The record does not contain the slow step, because it was cancelled. It must not count as a new call."""
    steps = {"slow": {"upstream": "b", "path": "/slow"}, "one": {"upstream": "a", "path": "/one/{path.id}", "required": True}}
    record = recorded(
        "/x/7", b'{"type":"/problems/upstream_status","title":"Upstream answered with an error","status":404}',
        [answered("one", "a", "/one/7", b"{}", status=404, failure="upstream_status")], status=404, complete=False, failure="upstream_status",
    )  # fmt: skip
    report = await replayed(plan_of({"steps": steps}), record, ignore=("errors",))
    assert (report.same, report.new_calls) == (1, {})


async def test_the_earlier_of_two_required_failures_decides_again() -> None:
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


async def test_a_renamed_endpoint_is_matched() -> None:
    assert (await replayed(plan_of({"name": "other"}), WHOLE)).same == 1


async def test_calls_are_distinguished_by_their_sent_bodies() -> None:
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
        # An answer may have no body: its header fields show that it was kept.
        (recorded("/x/7", b"{}", [answered("one", "a", "/one/7", b"", headers={"date": "now"})]), None),
        (
            recorded("/x/7", b"{}", [answered("one", "a", "/one/7", b"")], asked={"body": digested(b"{}")}),
            "the request body was not kept (`bodies: steps` keeps it)",
        ),
    ],
)
async def test_a_record_without_the_needed_data_is_skipped_with_the_reason(record: Record, reason: str | None) -> None:
    report = await replayed(plan_of(), record)
    assert list(report.skipped) == ([] if reason is None else [reason])


async def test_records_without_upstream_answers_are_skipped() -> None:
    bare = msgspec.structs.replace(ONE, body=digested(b'{"n":1}'))
    report = await replayed(plan_of(), recorded("/x/7", b"{}", [bare]))
    assert report.replayed == 0
    assert report.skipped == {"the services' answers were not kept (`bodies: steps` keeps them)": 1}


async def test_a_sent_body_recorded_only_by_size_skips_the_record() -> None:
    endpoint = {"method": "POST", "path": "/x", "steps": {"one": {"upstream": "a", "path": "/p", "method": "POST", "body": {"v": 1}}}}
    step = Step(name="one", upstream="a", method="POST", target="/p", sent=Content(size=7), status=200, body=Content(size=2))
    report = await replayed(plan_of(endpoint), recorded("/x", b"{}", [step], method="POST"))
    assert (report.replayed, report.new_calls) == (0, {})


async def test_a_record_without_a_required_header_is_skipped() -> None:
    endpoint = {"parameters": {"x-who": {"in": "header", "required": True}}}
    assert list((await replayed(plan_of(endpoint), WHOLE)).skipped) == [
        "the header x-who was not kept (`journal: {headers: [x-who]}` keeps it)"
    ]
    kept_record = recorded("/x/7", b'{"one":{"n":1,"t":"x"},"two":{"m":2.0}}', [ONE, TWO], asked={"headers": {"x-who": "me"}})
    assert (await replayed(plan_of(endpoint), kept_record)).same == 1


async def test_cookies_are_replayed_when_they_were_kept() -> None:
    plan = plan_of({"parameters": {"who": {"in": "cookie", "required": True}}})
    assert list((await replayed(plan, WHOLE)).skipped) == ["the header cookie was not kept (`journal: {headers: [cookie]}` keeps it)"]
    for cookie, same, skipped in (("who=me", 1, []), ("***", 0, ["the header cookie was redacted"])):
        record = recorded("/x/7", b'{"one":{"n":1,"t":"x"},"two":{"m":2.0}}', [ONE, TWO], asked={"headers": {"cookie": cookie}})
        report = await replayed(plan, record)
        assert (report.same, list(report.skipped)) == (same, skipped)


async def test_redacted_values_are_not_a_difference() -> None:
    redact = Redact(paths=["card"])
    step = answered("one", "a", "/one?token=***", b'{"card":"***","n":1}')
    steps = {"one": {"upstream": "a", "path": "/one", "query": {"token": "secret"}}}
    record = recorded("/x/7", b'{"one":{"card":"***","n":1}}', [step])
    assert (await replayed(plan_of({"steps": steps}), record, redact=redact)).same == 1


async def test_two_steps_with_the_same_call_get_their_own_answers() -> None:
    steps = {"one": {"upstream": "a", "path": "/s"}, "two": {"upstream": "a", "path": "/s"}}
    record = recorded("/x/7", b'{"one":1,"two":2}', [answered("one", "a", "/s", b"1"), answered("two", "a", "/s", b"2")])
    assert (await replayed(plan_of({"steps": steps}), record)).same == 1


async def test_elements_with_the_same_call_get_their_own_answers() -> None:
    plan = plan_of({"steps": {"all": {"upstream": "a", "path": "/all"}, "one": {"upstream": "a", "path": "/one/{item}", "each": "{all}"}}})
    calls = [answered("all", "a", "/all", b"[7,7,7]")]
    # In the order in which they ended.
    calls += [
        msgspec.structs.replace(answered("one", "a", "/one/7", body), started_ms=at) for body, at in [(b"2", 2.0), (b"1", 1.0), (b"3", 3.0)]
    ]
    report = await replayed(plan, recorded("/x/7", b'{"all":[7,7,7],"one":[1,2,3]}', calls))
    assert report.same == 1, report


@pytest.mark.parametrize("failure", [None, "invalid_json"])
async def test_answers_recorded_without_a_body_are_not_treated_as_empty(failure: str | None) -> None:
    """With `bodies: response`, only the status of an answer is recorded, like for an answer without a body."""
    steps = [Step(name="one", upstream="a", method="GET", target="/one/7", status=200, failure=failure)]
    report = await replayed(plan_of({"steps": {"one": STEPS["one"]}}), recorded("/x/7", b'{"one":null}', steps, complete=failure is None))
    if failure is None:
        assert report.skipped == {"the services' answers were not kept (`bodies: steps` keeps them)": 1}
    else:
        assert (report.skipped, list(report.status)) == ({}, ["200 -> 502"])


async def test_a_stale_answer_is_used_only_when_the_new_document_allows_it() -> None:
    old = msgspec.structs.replace(ONE, age_s=60.0)
    record = recorded("/x/7", b'{"one":{"n":1,"t":"x"}}', [old], complete=False)
    for rule, is_same in (({"stale_if_error": "1h"}, True), ({"stale_if_error": "30s"}, False), ({}, False)):
        report = await replayed(plan_of({"steps": {"one": {**STEPS["one"], **rule}}}), record)
        assert (report.same == 1) is is_same
    assert list(report.status) == ["200 -> 502"]


def computing(hook: str, given: str = "{one.n}", **step: Any) -> dict[str, Any]:
    compute = {"compute": f"tests.support.replay_hooks:{hook}", "input": {"value": given}, **step}
    return {"steps": {"one": STEPS["one"], "it": compute}}


async def test_functions_of_a_dask_cluster_run_locally() -> None:
    plan = plan_of(computing("wrapped", executor="dask"), compute_backends={"far": {"kind": "dask", "address": "tcp://127.0.0.1:1"}})
    record = recorded("/x/7", b'{"one":{"n":1,"t":"x"},"it":{"is":1}}', [ONE, Step(name="it", value=kept(b'{"is":1}'))])
    assert (await replayed(plan, record)).same == 1


async def test_a_refusal_is_made_again_and_compared() -> None:
    """The function runs again, so what it says is compared too, apart from its sentences."""
    steps = {
        "one": STEPS["one"],
        "it": {"compute": "tests.support.hooks:unless_free", "input": {"seats": "{one.n}", "wanted": 2}, "required": True},
    }
    body = b'{"type":"/problems/refused","title":"Sold out","status":409,"detail":"only 1 seats are left","instance":"r1","seats_left":1}'
    refused = recorded("/x/7", body, [ONE, Step(name="it", failure="refused")], status=409, complete=False, failure="refused")
    assert (await replayed(plan_of({"steps": steps}), refused)).same == 1
    steps["it"]["input"]["wanted"] = 1
    assert list((await replayed(plan_of({"steps": steps}), refused)).status) == ["409 -> 200"]
    steps["it"] |= {"input": {"seats": 0, "wanted": 2}}
    assert list((await replayed(plan_of({"steps": steps}), refused)).fields) == ["seats_left"]


@pytest.mark.parametrize("kept_headers", [{}, {"accept": "***"}])
async def test_a_request_refused_for_an_accept_that_was_not_kept_is_skipped(kept_headers: dict[str, str]) -> None:
    refused = recorded("/x/7", b"", [], status=406, complete=False, failure="not_acceptable", asked={"headers": kept_headers})
    report = await replayed(plan_of(), refused)
    assert report.skipped == {"the header accept was not kept (`journal: {headers: [accept]}` keeps it)": 1}


async def test_a_request_refused_for_its_accept_is_refused_again() -> None:
    body = b'{"type":"/problems/not_acceptable","title":"","status":406,"detail":"","available":["application/json","application/problem+json"]}'
    refused = recorded("/x/7", body, [], status=406, complete=False, failure="not_acceptable", asked={"headers": {"accept": "text/html"}})
    assert (await replayed(plan_of(), refused)).same == 1
    html = plan_of({"response": {"headers": {"content-type": "text/html"}}})
    assert (await replayed(html, refused)).different == 1


async def test_a_function_that_fails_on_a_redacted_value_skips_the_record() -> None:
    plan = plan_of({"steps": {"one": STEPS["one"], "it": {"compute": "tests.support.replay_hooks:initials", "input": {"name": "{one.t}"}}}})
    masked = answered("one", "a", "/one/7", b'{"n":1,"t":"***"}')
    fine = recorded("/x/7", b'{"one":{"n":1,"t":"***"},"it":"x"}', [masked, Step(name="it", value=kept(b'"x"'))])
    report = await replayed(plan, fine, redact=Redact(paths=["one.t"]))
    assert report.skipped == {"a compute step fails on a redacted value (leave its path out of `redact`)": 1}
    failed_then = recorded(
        "/x/7", b'{"one":{"n":1,"t":"***"},"it":null}', [masked, Step(name="it", failure="compute_failed")], complete=False
    )
    assert (await replayed(plan, failed_then, redact=Redact(paths=["one.t"]))).same == 1


async def test_a_difference_possibly_caused_by_a_redacted_value_is_marked() -> None:
    plan = plan_of(computing("wrapped", "of {one.t}"))
    masked = answered("one", "a", "/one/7", b'{"n":1,"t":"***"}')
    record = recorded("/x/7", b'{"one":{"n":1,"t":"***"},"it":{"is":"of x"}}', [masked, Step(name="it", value=kept(b'{"is":"of x"}'))])
    report = await replayed(plan, record, redact=Redact(paths=["one.t"]))
    assert (report.different, list(report.fields), report.guessed["it"].records) == (1, ["it.is"], 1)


async def test_a_call_built_from_a_redacted_value_skips_the_record() -> None:
    steps = {"one": STEPS["one"], "two": {"upstream": "b", "path": "/two/{one.t}"}}
    masked = answered("one", "a", "/one/7", b'{"n":1,"t":"***"}')
    record = recorded("/x/7", b'{"one":{"n":1,"t":"***"},"two":2}', [masked, answered("two", "b", "/two/secret", b"2")])
    report = await replayed(plan_of({"steps": steps}), record, redact=Redact(paths=["one.t"]))
    (reason,) = report.skipped
    assert reason.startswith("a call is made with a redacted value")


async def test_a_redacted_body_that_is_no_longer_valid_skips_the_record() -> None:
    endpoint = {
        "path": "/x", "method": "POST", "steps": {"one": {"upstream": "a", "path": "/p", "method": "GET"}},
        "body": {"schema": {"type": "object", "properties": {"card": {"type": "integer"}}}},
    }  # fmt: skip
    asked = {"body": kept(b'{"card":"***"}')}
    record = recorded("/x", b'{"one":1}', [answered("one", "a", "/p", b"1")], method="POST", asked=asked)
    report = await replayed(plan_of(endpoint), record, redact=Redact(paths=["card"]))
    (reason,) = report.skipped
    assert reason.startswith("the request body has a redacted value")


def test_every_failure_of_a_call_can_be_raised_again() -> None:
    for code in ("timeout", "tls_failed", "resolve_failed", "response_too_large", "deadline_exceeded", "queue_timeout", "protocol_error"):
        assert failure_of(code).code == code
    assert failure_of("something_new").code == "upstream_error"


async def test_a_request_with_a_selection_is_replayed_with_it() -> None:
    plan = plan_of({"response": {"select": {"parameter": "fields"}}})
    of_one = recorded("/x/7", b'{"one":{"n":1}}', [ONE], query="fields=one.n")
    of_two = recorded("/x/7", b'{"two":{"m":2.0}}', [ONE, TWO], query="fields=two(m)")
    faulty = recorded("/x/7", b"", [], query="fields=three", status=400, complete=None, failure="invalid_parameters")
    report = await replayed(plan, WHOLE, of_one, of_two)
    assert (report.replayed, report.same, report.different) == (3, 3, 0)
    assert not report.dropped_calls
    assert not report.new_calls
    report = await replayed(plan, faulty)
    assert not report.status
    report = await replayed(plan_of(), of_one)
    assert list(report.new_calls) == ["b GET"]


FEED = b"<rss><item>1</item></rss>"
DECODED = {
    "one": {"upstream": "a", "path": "/one", "decode": "xml"},
    "two": {"upstream": "b", "path": "/two/{one.rss.item}", "decode": "text"},
}


async def test_answers_of_other_formats_are_replayed_from_their_bytes_and_content_types() -> None:
    two = answered("two", "b", "/two/1", "caf\u00e9".encode("latin-1"), headers={"content-type": "text/plain; charset=latin1"})
    body = '{"one":{"rss":{"item":"1"}},"two":"caf\u00e9"}'.encode()
    record = recorded("/x/7", body, [answered("one", "a", "/one", FEED), two])
    report = await replayed(plan_of({"steps": DECODED}), record)
    assert (report.same, report.different) == (1, 0)
    changed = {**DECODED, "one": {**DECODED["one"], "arrays": ["rss.item"]}, "two": {**DECODED["two"], "path": "/two/{one.rss.item.0}"}}
    report = await replayed(plan_of({"steps": changed}), record)
    assert (report.same, list(report.fields)) == (0, ["one.rss.item"])


async def test_the_client_is_the_one_of_the_record() -> None:
    document: dict[str, Any] = {"auth": {"users": {"api_key": {"keys": []}}}}
    plan = plan_of({"auth": "users", "steps": {"one": {"upstream": "a", "path": "/of/{auth.sub}/{auth.claims.n}"}}}, **document)
    step = answered("one", "a", "/of/alice/7", b"{}")
    client = kept(b'{"sub":"alice","name":"Alice","via":"users","claims":{"n":7}}')
    assert (await replayed(plan, recorded("/x/7", b'{"one":{}}', [step], asked={"principal": client}))).same == 1
    report = await replayed(plan, recorded("/x/7", b'{"one":{}}', [step]))
    assert list(report.skipped) == ["the endpoint refers to its client, which was not recorded"]


@pytest.mark.parametrize("failure", ["unauthenticated", "forbidden", "rate_limited", "overloaded", "unavailable"])
async def test_what_a_guard_rejected_is_not_run(failure: str) -> None:
    report = await replayed(plan_of(), recorded("/x/7", b"{}", [], status=401, failure=failure))
    assert list(report.skipped) == ["it was rejected before anything ran, by a guard that is not asked again"]
