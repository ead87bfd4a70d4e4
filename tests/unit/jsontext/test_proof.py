"""What counts as JSON in UTF-8, and how everything else is reported."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.jsontext.proof import NotJSON, is_proven, prove


@pytest.mark.parametrize(
    ("raw", "detail"),
    [
        (b'{"a": 1', "not JSON: unexpected end of input"),
        (b'{\n  "a": x}', "not JSON: invalid character at line 2, column 8"),
        ('{"ä": x}'.encode(), "not JSON: invalid character at line 1, column 7"),
        (b"{} {}", "not JSON: trailing characters at line 1, column 4"),
        (b"NaN", "not JSON: invalid character at line 1, column 1"),
        (b'{"a": "\xff"}', "not UTF-8: byte 8 is not part of a character"),
        (b"\xef\xbb\xbf{}", "not JSON: it begins with a byte order mark"),
        (b'{"a": "\\ud800"}', "not JSON: an escape is half of a surrogate pair at line 1, column 8"),
        (b'["\\udc00 low first"]', "not JSON: an escape is half of a surrogate pair at line 1, column 3"),
        (b'["\\ud83d\\ude00", "\\ud83d\\u0041"]', "not JSON: an escape is half of a surrogate pair at line 1, column 19"),
        (b'["\\ud83d\\ud83d\\ude00"]', "not JSON: an escape is half of a surrogate pair at line 1, column 3"),
        (b'{"\\ud800": 1}', "not JSON: an escape is half of a surrogate pair at line 1, column 3"),
        (b'["\\\\ud800", x]', "not JSON: invalid character at line 1, column 13"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_broken_json_is_located(raw: bytes, detail: str) -> None:
    with pytest.raises(NotJSON) as caught:
        prove(raw)
    assert str(caught.value) == detail
    assert not is_proven(raw)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4),
    max_leaves=10,
)


@given(_JSON)
def test_any_json_is_accepted(value: object) -> None:
    prove(orjson.dumps(value))


@given(st.binary(max_size=60) | st.text(st.sampled_from('{}[]",:1e-\\u\n tfn'), max_size=30).map(str.encode))
def test_any_bytes_are_accepted_or_rejected_with_a_message(raw: bytes) -> None:
    try:
        prove(raw)
    except NotJSON as error:
        sentence = str(error)
    else:
        assert is_proven(raw)
        orjson.loads(raw)
        return
    assert sentence.startswith(("not UTF-8: ", "not JSON: ", "nested"))
    assert not is_proven(raw)
