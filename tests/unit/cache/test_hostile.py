"""Whatever services, clients and the shared store send: nothing raises, and what cannot be read keeps nothing longer than what can."""

from hypothesis import given
from hypothesis import strategies as st

from anabranch.cache import purge
from anabranch.cache.entry import decode, encode
from anabranch.cache.fields import date, directives, seconds, split, targeted
from anabranch.cache.judge import Use, conditional, freshened, invalidated, judge, use_of, wanted_of
from anabranch.cache.rule import Rule
from anabranch.core.exchange import ANY_2XX, Address, Answer, Request

NOW = 1e9
NAMES = [
    b"cache-control", b"cdn-cache-control", b"expires", b"date", b"age", b"vary", b"etag", b"last-modified", b"connection", b"location",
    b"content-location", b"pragma", b"set-cookie",
]  # fmt: skip
WORDS = st.sampled_from(
    [b"max-age", b"=", b"60", b'"', b"\\", b",", b" ", b"no-store", b"private", b"s-maxage", b"*", b";", b"(", b")", b"\xff", b"-1", b"99999999999999999999999",
     b"Sun, 06 Nov 1994 08:49:37 GMT", b"http://[", b"//a:99999", b"/x", b"?1", b":", b"stale-if-error"]
)  # fmt: skip
VALUES = st.lists(WORDS, max_size=8).map(b"".join) | st.binary(max_size=20).map(lambda value: value.translate(None, b"\r\n\0"))
FIELDS = st.lists(st.tuples(st.sampled_from(NAMES), VALUES), max_size=6)
RULES = st.sampled_from(
    [Rule(), Rule(ttl_s=5, negative_s=5, heuristic=0.1, stale_if_error_s=9), Rule(is_fallback=True, stale_if_error_s=9)]
)


@given(FIELDS, st.sampled_from([200, 206, 304, 404, 500]), RULES)
def test_any_answer_can_be_judged(fields: list[tuple[bytes, bytes]], status: int, rule: Rule) -> None:
    request = Request("GET", "/x", extra=tuple(fields))
    answer = Answer(status, fields, b"{}")
    storing = judge(request, answer, rule, success=ANY_2XX, requested_s=NOW, received_s=NOW)
    invalidated(Request("POST", "/x"), answer, Address.parse("http://a.test/base"))
    if (entry := storing.entry) is not None:
        assert entry.since_s <= NOW
        assert decode(encode(entry), entry.key) == entry
        conditional(request, entry)
        freshened(entry, answer)
        if b"no-store" in directives(value for name, value in fields if name == b"cache-control") and not rule.is_fallback:
            assert any(name == b"cdn-cache-control" for name, _ in fields) or b"must-understand" in b"".join(value for _, value in fields)


@given(VALUES, VALUES)
def test_any_directives_of_a_client_can_be_read(control: bytes, pragma: bytes) -> None:
    entry = judge(
        Request("GET", "/x"), Answer(200, [(b"cache-control", b"max-age=60")], b""), Rule(), success=ANY_2XX, requested_s=NOW, received_s=NOW
    ).entry  # fmt: skip
    assert entry is not None
    assert use_of(entry, wanted_of(control, pragma), NOW) in Use
    assert use_of(entry, wanted_of(None, pragma), NOW) in Use


@given(VALUES)
def test_any_value_can_be_read(value: bytes) -> None:
    date(value, NOW)
    targeted([value])
    found = directives([value])
    assert all((seconds(found, name) or 0) >= 0 for name in found)
    assert all(member == member.strip() for member in split(value))


@given(st.binary(max_size=60))
def test_any_value_of_the_store_can_be_read(value: bytes) -> None:
    assert decode(value, b"key") is None
    purge.decode(value)
    assert isinstance(purge.decode_list(value), list)
