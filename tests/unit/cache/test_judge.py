"""What may be stored, for how long it is fresh, and when it may be used: a table of cases with their sections of RFC 9111."""

import pytest

from anabranch.cache.entry import Entry
from anabranch.cache.judge import Use, conditional, describes, freshened, invalidated, judge, use_of, wanted_of
from anabranch.cache.rule import Rule, Wanted
from anabranch.core.exchange import ANY_2XX, Address, Answer, Request

PLAIN = Rule()
NOW = 784111777.0  # Sun, 06 Nov 1994 08:49:37 GMT
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
ONE_HOUR_LATER = "Sun, 06 Nov 1994 09:49:37 GMT"
ONE_HOUR_BEFORE = "Sun, 06 Nov 1994 07:49:37 GMT"
GET = Request("GET", "/x")


def answer(*fields: str, status: int = 200, body: bytes = b"{}") -> Answer:
    pairs = [field.partition(": ")[::2] for field in fields]
    return Answer(status, [(name.lower().encode(), value.encode("latin-1")) for name, value in pairs], body)


def fresh_s(*fields: str, rule: Rule = PLAIN, status: int = 200, request: Request = GET, delay_s: float = 0.0) -> float | None:
    """For how long after its arrival an answer may be used without asking; None when it is not stored."""
    storing = judge(request, answer(*fields, status=status), rule, success=ANY_2XX, requested_s=NOW - delay_s, received_s=NOW)
    return None if storing.entry is None else max(storing.entry.fresh_until_s - NOW, 0.0)


def test_a_new_answer_with_the_date_of_the_second_before_is_new() -> None:
    """Dates have whole seconds, and uvicorn renews its own once a second: a short `ttl` must not be used up on arrival."""
    assert (
        judge(GET, answer(f"date: {DATE}"), Rule(ttl_s=1.0), success=ANY_2XX, requested_s=NOW + 1.9, received_s=NOW + 1.9).fresh_until_s
        == NOW + 2.9
    )
    assert (
        judge(GET, answer(f"date: {DATE}"), Rule(ttl_s=1.0), success=ANY_2XX, requested_s=NOW + 2.5, received_s=NOW + 2.5).fresh_until_s
        == NOW + 1.0
    )


def entry_of(*fields: str, rule: Rule = PLAIN) -> Entry:
    found = judge(GET, answer(*fields), rule, success=ANY_2XX, requested_s=NOW, received_s=NOW).entry
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        # 4.2.1: max-age, and what it may look like
        (["cache-control: max-age=3600"], 3600),
        (["cache-control: MaX-aGe=3600"], 3600),
        (['cache-control: max-age="3600"'], 3600),
        (["cache-control: max-age=003600"], 3600),
        (["cache-control: foobar, max-age=3600"], 3600),
        (["cache-control: max-age=2147483648"], 2**31),
        (["cache-control: max-age=99999999999"], 2**31),
        (["cache-control: max-age=99999999999999999999999"], 2**31),
        (["cache-control: max-age=0"], 0),
        (["cache-control: max-age='3600'"], 0),
        (["cache-control: max-age =3600"], 0),
        (["cache-control: max-age= 3600"], 0),
        (["cache-control: max-age=a100"], 0),
        (["cache-control: max-age=100a"], 0),
        (["cache-control: max-age=3600.5"], 0),
        (["cache-control: max-age=-100"], 0),
        (["cache-control: max-age"], 0),
        (['cache-control: extension="max-age=3600", max-age=1'], 1),
        (['cache-control: max-age=1, extension="max-age=3600"'], 1),
        (['cache-control: extension="a\\", max-age=3600", max-age=1'], 1),
        # of several values the smallest
        (["cache-control: max-age=1800, max-age=1"], 1),
        (["cache-control: max-age=1", "cache-control: max-age=1800"], 1),
        (["cache-control: max-age=1800, max-age=x"], 0),
        # s-maxage before max-age before Expires
        (["cache-control: s-maxage=3600"], 3600),
        (["cache-control: max-age=3600, s-maxage=1"], 1),
        (["cache-control: s-maxage=3600, max-age=1"], 3600),
        (["cache-control: max-age=3600", f"expires: {ONE_HOUR_BEFORE}", f"date: {DATE}"], 3600),
        (["cache-control: max-age=3600", "expires: 0", f"date: {DATE}"], 3600),
        (["cache-control: max-age=0", f"expires: {ONE_HOUR_LATER}", f"date: {DATE}"], 0),
        # 5.3: Expires
        ([f"expires: {ONE_HOUR_LATER}", f"date: {DATE}"], 3600),
        ([f"expires: {ONE_HOUR_LATER}"], 3600),
        ([f"expires: {ONE_HOUR_LATER}", "date: foo"], 3600),
        ([f"expires: {DATE}", f"date: {DATE}"], 0),
        ([f"expires: {ONE_HOUR_BEFORE}", f"date: {DATE}"], 0),
        ([f"expires: {ONE_HOUR_LATER}", "expires: 0", f"date: {DATE}"], 0),
        ([f"expires: {ONE_HOUR_LATER}", "date: Sun, 06 Nov 1994 10:49:37 GMT"], 0),
        (["expires: 0", f"date: {DATE}"], 0),
        (["expires: SUN, 06 Nov 1994 09:49:37 GMT"], 3600),
        (["expires: Sun, 06 NOV 1994 09:49:37 gMT"], 3600),
        (["expires: Sunday, 06-Nov-94 09:49:37 GMT"], 3600),
        (["expires: Sun Nov  6 09:49:37 1994"], 3600),
        (["expires: Sun, 06 Nov 1994 09:49:37 UTC"], 0),
        (["expires: Sun, 06 Nov 94 09:49:37 GMT"], 0),
        (["expires: Sun 06 Nov 1994 09:49:37 GMT"], 0),
        (["expires: Sun, 06  Nov  1994 09:49:37 GMT"], 0),
        (["expires: Sun, 06-Nov-1994 09:49:37 GMT"], 0),
        (["expires: Sun, 06 Nov 1994 09.49.37 GMT"], 0),
        (["expires: Sun, 06 Nov 1994 9:49:37 GMT"], 0),
        (["expires: Sun, 31 Feb 1995 09:49:37 GMT"], 0),
        # 4.2.3: age
        (["cache-control: max-age=3600", "age: 1800"], 1800),
        (["cache-control: max-age=3600", "age: 7200"], 0),
        (["cache-control: max-age=3600", "age: abc"], 3600),
        (["cache-control: max-age=3600", "age: -7200"], 3600),
        (["cache-control: max-age=3600", "age: 7200.0"], 3600),
        (["cache-control: max-age=3600", "age: 7200,0"], 0),
        (["cache-control: max-age=3600", "age: 0", "age: 7200"], 3600),
        (["cache-control: max-age=7200", f"date: {ONE_HOUR_BEFORE}"], 3600),
        ([f"expires: {ONE_HOUR_LATER}", f"date: {ONE_HOUR_BEFORE}", "age: 4000"], 3200),
        (["expires: Sun, 06 Nov 1994 08:49:57 GMT", "date: Sun, 06 Nov 1994 08:49:47 GMT", "age: 15"], 0),
        # 5.2.2: what must not be stored, or used without asking
        (["cache-control: no-store, max-age=3600"], None),
        (["cache-control: No-StOrE"], None),
        (["cache-control: private, max-age=3600"], None),
        (["cache-control: no-cache, max-age=3600"], 0),
        (["cache-control: No-CaChE", f"expires: {ONE_HOUR_LATER}"], 0),
        (["cache-control: no-cache"], None),
        (["cache-control: no-cache", 'etag: "1"'], 0),
        (['cache-control: private="set-cookie", max-age=3600'], 3600),
        (['cache-control: no-cache="x-a", max-age=3600'], 3600),
        (["cache-control: must-revalidate, max-age=3600"], 3600),
        (["cache-control: max-age=3600", "pragma: no-cache"], 3600),
        (["pragma: no-cache"], None),
        ([], None),
        (['etag: "1"'], 0),
        # 5.2.2.3: no-store beside must-understand is for caches that do not know it
        (["cache-control: must-understand, no-store, max-age=60"], 60),
        # 4.1
        (["cache-control: max-age=60", "vary: *"], None),
        (["cache-control: max-age=60", "vary: accept, *"], None),
        (["cache-control: max-age=60", "vary: ", "vary: *"], None),
        (["cache-control: max-age=60", "vary: , accept"], 60),
        # RFC 9213
        (["cdn-cache-control: max-age=3600"], 3600),
        (["cdn-cache-control: max-age=3600", "cache-control: no-store"], 3600),
        (["cdn-cache-control: max-age=3600", "cache-control: max-age=1"], 3600),
        (["cdn-cache-control: max-age=1", "cache-control: max-age=3600"], 1),
        (["cdn-cache-control: max-age=3600", "expires: 0"], 3600),
        (["cdn-cache-control: max-age=0", f"expires: {ONE_HOUR_LATER}"], 0),
        (["cdn-cache-control: max-age=3600", "age: 7200"], 0),
        (["cdn-cache-control: private", "cache-control: max-age=3600"], None),
        (["cdn-cache-control: no-store", "cache-control: max-age=3600"], None),
        (["cdn-cache-control: no-cache", "cache-control: max-age=3600", 'etag: "1"'], 0),
        (["cdn-cache-control: no-store=?0, max-age=60"], 60),
        (["cdn-cache-control: foobar, max-age=3600"], 3600),
        (['cdn-cache-control: a="x, y";b=1, c=(1 "2" d);e, f=:aGk=:, g=?1, h=1.5, max-age=60;x'], 60),
        (["cdn-cache-control: max-age=1, max-age=60"], 60),
        (["cdn-cache-control: max-age=60", "cdn-cache-control: s-maxage=5"], 5),
        # an invalid targeted field is ignored as a whole
        (["cdn-cache-control: max-age=10000, &&&&&", "cache-control: no-store"], None),
        (['cdn-cache-control: max-age="10000"', "cache-control: no-store"], None),
        (["cdn-cache-control: max-age=60,", "cache-control: max-age=1"], 1),
        (["cdn-cache-control: MaX-aGe=3600", "cache-control: max-age=1"], 1),
        (["cdn-cache-control: max-age =100", "cache-control: max-age=1"], 1),
        (["cdn-cache-control: max-age= 100", "cache-control: max-age=1"], 1),
        (["cdn-cache-control: max-age=-1", "cache-control: max-age=1"], 1),
        (["cdn-cache-control: max-age=1.5", "cache-control: max-age=1"], 1),
        (["cdn-cache-control: a=(1 2", "cache-control: max-age=1"], 1),
        (["cdn-cache-control: ", "cache-control: max-age=1"], 1),
    ],
)
def test_how_long_an_answer_may_be_used(fields: list[str], expected: float | None) -> None:
    assert fresh_s(*fields) == expected


@pytest.mark.parametrize("status", [200, 203, 204, 299, 301, 302, 303, 307, 308, 400, 404, 410, 499, 500, 502, 503, 504, 599])
def test_any_final_status_with_explicit_freshness_may_be_used(status: int) -> None:
    assert fresh_s("cache-control: max-age=60", status=status) == 60


@pytest.mark.parametrize("status", [206, 304])
def test_parts_are_not_stored(status: int) -> None:
    assert fresh_s("cache-control: max-age=60", status=status) is None
    assert fresh_s("cache-control: max-age=60", "content-range: bytes 0-1/2") is None


def test_a_status_that_must_be_understood_and_is_not_is_not_stored() -> None:
    assert fresh_s("cache-control: must-understand, max-age=60", status=299) is None
    assert fresh_s("cache-control: must-understand, no-store, max-age=60", status=299) is None


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "OPTIONS"])
def test_only_answers_to_get_are_stored(method: str) -> None:
    assert fresh_s("cache-control: max-age=60", request=Request(method, "/x")) is None


@pytest.mark.parametrize(
    ("control", "expected"),
    [
        ("max-age=60", None),
        ("public, max-age=60", 60),
        ("s-maxage=60", 60),
        ("must-revalidate, max-age=60", 60),
        ("proxy-revalidate, max-age=60", None),
    ],
)
def test_what_was_asked_for_with_credentials_needs_permission(control: str, expected: float | None) -> None:
    """Section 3.5."""
    request = Request("GET", "/x", extra=((b"authorization", b"x"),))
    assert fresh_s(f"cache-control: {control}", request=request) == expected


TTL = Rule(ttl_s=30.0, negative_s=5.0)


@pytest.mark.parametrize(
    ("fields", "status", "expected"),
    [
        ([], 200, 30),
        (["cache-control: public"], 200, 30),
        (["cache-control: must-revalidate"], 200, 30),
        ([], 201, 30),
        ([], 301, 30),
        ([], 302, None),
        ([], 404, 5),
        ([], 410, 5),
        ([], 403, None),
        ([], 500, None),
        ([], 501, 5),
        (["cache-control: max-age=60"], 404, 60),
        (["cache-control: max-age=1"], 200, 1),
        (["cache-control: no-cache"], 200, None),
        (["expires: 0"], 200, 0),
        (["cdn-cache-control: max-age=1"], 200, 1),
        (["set-cookie: a=b"], 200, None),
        (["set-cookie: a=b", "cache-control: max-age=60"], 200, 60),
    ],
)
def test_the_document_counts_where_the_service_says_nothing(fields: list[str], status: int, expected: float | None) -> None:
    assert fresh_s(*fields, rule=TTL, status=status) == expected


def test_a_good_answer_of_a_negative_status_has_the_time_of_good_ones() -> None:
    storing = judge(GET, answer(status=404), TTL, success=frozenset({200, 404}), requested_s=NOW, received_s=NOW)
    assert storing.entry is not None
    assert storing.entry.fresh_until_s == NOW + 30


@pytest.mark.parametrize(
    ("status", "control", "expected"),
    [
        (200, "", 360),
        (404, "", 360),
        (501, "", 360),
        (201, "", None),
        (403, "", None),
        (502, "", None),
        (599, "", None),
        (599, "public", 360),
    ],
)
def test_heuristic_freshness_is_a_share_of_the_age_of_what_is_answered(status: int, control: str, expected: float | None) -> None:
    fields = [f"last-modified: {ONE_HOUR_BEFORE}", f"date: {DATE}", *([f"cache-control: {control}"] if control else [])]
    assert fresh_s(*fields, rule=Rule(heuristic=0.1), status=status) == expected
    assert fresh_s(*fields, status=status) in (0, None)
    assert fresh_s("last-modified: Sun, 06 Nov 1904 08:49:37 GMT", rule=Rule(heuristic=0.5)) == 86400


def test_the_time_on_the_way_counts_as_age() -> None:
    """Section 4.2.3: the answer may have been generated when it was asked for."""
    assert fresh_s("cache-control: max-age=60", delay_s=10) == 50
    assert fresh_s("cache-control: max-age=60", "age: 5", delay_s=10) == 45


def test_fields_of_the_connection_and_cookies_are_not_stored() -> None:
    found = entry_of(
        'cache-control: max-age=60, no-cache="x-a, x-b"', "connection: x-c, close", "x-a: 1", "x-b: 1", "x-c: 1", "x-d: 1", "keep-alive: x",
        "set-cookie: a=b", "proxy-authenticate: x", "transfer-encoding: chunked",
    )  # fmt: skip
    assert [name for name, _ in found.answer.headers] == [b"cache-control", b"x-d"]


@pytest.mark.parametrize(
    ("control", "rule", "revalidate_s", "error_s"),
    [
        ("max-age=60, stale-while-revalidate=10, stale-if-error=20", Rule(), 70, 80),
        ("max-age=60", Rule(stale_while_revalidate_s=5, stale_if_error_s=6), 65, 66),
        ("max-age=60, stale-if-error=0", Rule(stale_if_error_s=6), 0, 0),
        ("max-age=60, must-revalidate, stale-if-error=20", Rule(stale_while_revalidate_s=5), 0, 0),
        ("max-age=60, proxy-revalidate", Rule(stale_if_error_s=6), 0, 0),
        ("s-maxage=60", Rule(stale_if_error_s=6), 0, 0),
        ("max-age=60, no-cache", Rule(stale_if_error_s=6), 0, 0),
        ("max-age=60, stale-while-revalidate", Rule(stale_while_revalidate_s=5), 0, 0),
    ],
)
def test_when_stale_answers_may_be_used(control: str, rule: Rule, revalidate_s: float, error_s: float) -> None:
    """RFC 5861, and section 4.2.4."""
    found = entry_of(f"cache-control: {control}", rule=rule)
    assert (max(found.revalidate_until_s - NOW, 0), max(found.error_until_s - NOW, 0)) == (revalidate_s, error_s)


FRESH = entry_of("cache-control: max-age=60, stale-while-revalidate=20", "age: 10")


@pytest.mark.parametrize(
    ("wanted", "later_s", "expected"),
    [
        (None, 49, Use.FRESH), (None, 51, Use.STALE), (None, 71, Use.ASK),
        ("no-cache", 0, Use.ASK), ("no-store", 0, Use.ASK), ("max-age=0", 0, Use.ASK), ("max-age=9", 0, Use.ASK), ("max-age=10", 0, Use.FRESH),
        ("min-fresh=50", 0, Use.FRESH), ("min-fresh=51", 0, Use.ASK), ("max-stale=10", 60, Use.FRESH), ("max-stale=9", 60, Use.STALE),
        ("max-stale", 1000, Use.FRESH), ("max-stale=1000, max-age=5", 60, Use.ASK), ("only-if-cached", 0, Use.FRESH), ("max-age=x", 0, Use.ASK),
    ],
)  # fmt: skip
def test_what_a_client_may_demand(wanted: str | None, later_s: float, expected: Use) -> None:
    """Section 5.2.1."""
    directives = None if wanted is None else wanted_of(wanted.encode(), None)
    assert use_of(FRESH, directives, NOW + later_s) is expected


def test_a_client_cannot_get_stale_what_must_be_validated() -> None:
    """Sections 5.2.1.2 and 5.2.2.2."""
    found = entry_of("cache-control: max-age=60, must-revalidate")
    assert use_of(found, Wanted(max_stale_s=1e9), NOW + 61) is Use.ASK
    assert use_of(entry_of("cache-control: no-cache, max-age=60"), Wanted(max_stale_s=1e9), NOW) is Use.ASK


def test_pragma_counts_only_without_cache_control() -> None:
    assert wanted_of(None, b"no-cache") == Wanted(no_cache=True)
    assert wanted_of(None, b"x") is None
    assert wanted_of(b"max-age=5", b"no-cache") == Wanted(max_age_s=5)
    assert wanted_of(None, None) is None


def test_a_validation_replaces_the_conditions_of_the_client() -> None:
    found = entry_of('etag: W/"1"', f"last-modified: {DATE}", "cache-control: no-cache")
    sent = conditional(Request("GET", "/x", extra=((b"if-none-match", b'"client"'), (b"x-a", b"1"), (b"if-match", b"*"))), found)
    assert sent.extra == ((b"x-a", b"1"), (b"if-none-match", b'W/"1"'), (b"if-modified-since", DATE.encode()))


@pytest.mark.parametrize(
    ("stored", "fields", "is_about_it"),
    [
        (['etag: "1"'], ['etag: "1"'], True),
        (['etag: "1"'], ['etag: W/"1"'], True),
        (['etag: "1"'], ['etag: "2"'], False),
        (['etag: "1"'], [], True),
        ([f"last-modified: {DATE}"], [f"last-modified: {DATE}"], True),
        ([f"last-modified: {DATE}"], [f"last-modified: {ONE_HOUR_LATER}"], False),
        (['etag: "1"', f"last-modified: {DATE}"], ['etag: "1"', f"last-modified: {ONE_HOUR_LATER}"], True),
    ],
)
def test_a_304_must_be_about_the_stored_answer(stored: list[str], fields: list[str], is_about_it: bool) -> None:
    """Section 4.3.4."""
    assert (freshened(entry_of(*stored, "cache-control: no-cache"), answer(*fields, status=304)) is not None) is is_about_it


def test_a_304_updates_the_stored_fields() -> None:
    """Section 3.2: all fields of the same name are replaced, except those that the stored body depends on."""
    stored = entry_of(
        "cache-control: max-age=1", 'etag: "1"', "x-a: 1", "x-a: 2", "x-b: 1", "content-length: 2", "content-encoding: gzip", "age: 7", f"date: {DATE}"
    )  # fmt: skip
    merged = freshened(
        stored, answer("cache-control: max-age=3600", "x-a: 3", "content-length: 0", "connection: x-c", "x-c: 1", status=304)
    )
    assert merged is not None
    assert merged.status == 200
    assert merged.body == b"{}"
    assert merged.headers == [
        (b"etag", b'"1"'), (b"x-b", b"1"), (b"content-length", b"2"), (b"content-encoding", b"gzip"), (b"cache-control", b"max-age=3600"), (b"x-a", b"3"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "is_same"),
    [([], True), (['etag: "1"', "content-length: 2"], True), (['etag: "2"'], False), (["content-length: 3"], False)],
)
def test_what_a_head_says_of_the_stored_answer(fields: list[str], is_same: bool) -> None:
    """Section 4.3.5."""
    assert describes(entry_of('etag: "1"', "content-length: 2", "cache-control: max-age=1"), answer(*fields)) is is_same


ADDRESS = Address.parse("http://a.test:8080/base")


@pytest.mark.parametrize(
    ("method", "status", "fields", "expected"),
    [
        ("POST", 200, [], ("/x/y?z",)),
        ("PUT", 204, [], ("/x/y?z",)),
        ("M-SEARCH", 303, [], ("/x/y?z",)),
        ("GET", 200, ["location: /other"], ()),
        ("POST", 400, ["location: /other"], ()),
        ("POST", 500, [], ()),
        ("POST", 201, ["location: /base/new"], ("/x/y?z", "/new")),
        ("POST", 201, ["location: new?a=1"], ("/x/y?z", "/x/new?a=1")),
        ("POST", 201, ["content-location: http://a.test:8080/base/new"], ("/x/y?z", "/new")),
        ("POST", 201, ["content-location: //a.test:8080/base/new"], ("/x/y?z", "/new")),
        ("POST", 201, ["location: http://b.test:8080/base/new"], ("/x/y?z",)),
        ("POST", 201, ["location: http://a.test/base/new"], ("/x/y?z",)),
        ("POST", 201, ["location: https://a.test:8080/base/new"], ("/x/y?z",)),
        ("POST", 201, ["location: http://a.test:99999/"], ("/x/y?z",)),
        ("POST", 201, ["location: mailto:a@b.test"], ("/x/y?z",)),
    ],
)
def test_what_a_change_makes_out_of_date(method: str, status: int, fields: list[str], expected: tuple[str, ...]) -> None:
    """Section 4.4: the target, and what `Location` and `Content-Location` name on the same origin."""
    assert invalidated(Request(method, "/x/y?z"), answer(*fields, status=status), ADDRESS) == expected


def test_a_service_may_name_what_it_has_changed_by_the_hosts_by_which_it_was_asked() -> None:
    request = Request("POST", "/x", extra=((b"x-forwarded-host", b"public.test"),), host=b"tenant.test:81")
    for host in ("public.test", "Tenant.test:81", "a.test:8080"):
        assert invalidated(request, answer(f"location: http://{host}/new", status=201), ADDRESS) == ("/x", "/new")
    assert invalidated(request, answer("location: http://tenant.test/new", status=201), ADDRESS) == ("/x",)
    assert invalidated(Request("POST", "/x"), answer("location: http://a.test/new", status=201), None) == ("/x",)


def test_a_call_that_is_no_http_cache_keeps_its_good_answers_for_failures_only() -> None:
    rule = Rule(stale_if_error_s=60, is_fallback=True)
    for control in ("max-age=3600", "private", "must-revalidate, max-age=0", "no-cache"):
        found = entry_of(f"cache-control: {control}", rule=rule)
        assert (found.fresh_until_s, found.revalidate_until_s, found.error_until_s) == (0, 0, NOW + 60)
    assert fresh_s("cache-control: no-store", rule=rule) is None
    assert fresh_s(rule=rule, status=404) is None
