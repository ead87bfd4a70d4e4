"""Redacted values are removed, and nothing else changes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.config.journal import Redact
from anabranch.journal.redact import BodyRedaction, Redaction, UnreadableBody


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ""),
        ("a=1&b=2", "a=1&b=2"),
        ("token=abc", "token=***"),
        ("a=1&TOKEN=abc&b", "a=1&TOKEN=***&b"),
        ("%74oken=abc", "%74oken=***"),
        ("token=a&token=b", "token=***&token=***"),
        ("tokens=abc&x=token", "tokens=abc&x=token"),
        ("token", "token"),
        ("access%5Ftoken=x", "access%5Ftoken=***"),
    ],
)
def test_values_of_secret_parameters_are_replaced(query: str, expected: str) -> None:
    assert Redaction(Redact()).query(query) == expected


def test_a_target_keeps_its_path() -> None:
    redaction = Redaction(Redact())
    assert redaction.target("/token=1?token=1") == "/token=1?token=***"
    assert redaction.target("/a") == "/a"


def test_header_rules_are_case_insensitive() -> None:
    redaction = Redaction(Redact(headers=["X-Secret"]))
    assert redaction.header("x-secret", "abc") == "***"
    assert redaction.header("accept", "abc") == "abc"


@pytest.mark.parametrize(
    ("paths", "body", "expected"),
    [
        (["a.b"], b'{"a": {"b": 1, "c": 1.00}}', b'{"a":{"b":"***","c":1.00}}'),
        (["a.b"], b'{"a":[{"b":1},{"c":1e2}]}', b'{"a":[{"b":"***"},{"c":1e2}]}'),
        (["a"], b'[{"a":{"x":1}}]', b'[{"a":"***"}]'),
        (["a.b"], b'{"a": 1.0}', b'{"a": 1.0}'),
        (["a"], b'{ "z": 1 }', b'{ "z": 1 }'),
        (["a"], b'{"\\u0061": 1}', b'{"a":"***"}'),
        (["**.p"], b'{"x":[{"p":1,"y":{"p":{"p":2}}}]}', b'{"x":[{"p":"***","y":{"p":"***"}}]}'),
        (["**.p", "x.y"], b'{"x":{"y":1},"z":{"p":0.10}}', b'{"x":{"y":"***"},"z":{"p":"***"}}'),
        ([], b'{"a":1}', b'{"a":1}'),
        (["a"], b"", b""),
    ],
)
def test_paths_are_masked_and_the_rest_keeps_its_spelling(paths: list[str], body: bytes, expected: bytes) -> None:
    assert BodyRedaction(paths).apply(body, is_json=bool(body)) == expected


@pytest.mark.parametrize("body", [b"<a>1</a>", b'{"a":', b'{"a":"\xff"}', b"[" * 2000])
def test_an_unreadable_body_with_redaction_rules_is_not_kept(body: bytes) -> None:
    with pytest.raises(UnreadableBody):
        BodyRedaction(["a"]).apply(body, is_json=False)


def test_a_steps_bodies_are_redacted_by_the_paths_of_the_response() -> None:
    redaction = Redaction(Redact(paths=["payment.card", "other.card"]))
    assert redaction.for_step("payment").apply(b'{"card":1}', is_json=True) == b'{"card":"***"}'
    assert redaction.for_step("weather").apply(b'{"card":1}', is_json=True) == b'{"card":1}'
    assert redaction.for_step("payment").apply(b'{"payment":{"card":1}}', is_json=True) == b'{"payment":{"card":"***"}}'


SECRETS = st.recursive(
    st.integers() | st.just("SECRET"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "password"]), inner, max_size=3),
    max_leaves=15,
)


@given(value=SECRETS)
def test_a_name_masked_at_any_depth_leaves_nothing_below_it(value: object) -> None:
    hidden = {"outer": value, "password": value}
    found = json.loads(BodyRedaction(["**.password"]).apply(json.dumps(hidden).encode(), is_json=True))

    def look(left: object, is_below: bool) -> None:
        assert not is_below
        if isinstance(left, dict):
            for name, inner in left.items():
                if name == "password":
                    assert inner == "***"
                else:
                    look(inner, is_below=False)
        elif isinstance(left, list):
            for inner in left:
                look(inner, is_below=False)

    look(found, is_below=False)
