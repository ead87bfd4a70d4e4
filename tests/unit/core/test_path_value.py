"""Which values may become one segment of a path."""

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.core.path_value import fault

DOTS = [
    ".", "..", "../admin", "admin/..", "a/../b", "a/./b", "./a", "/..", "../", "//..//",
    "..\\admin", "a\\..\\b", "..\\/..",
    "%2e", "%2E%2e", ".%2e/admin", "..%2fadmin", "a%2f..%2fb", "..%5cadmin",  # encoded once
    "%252e%252e", "..%252fadmin", "%25252e%25252e%25252fadmin",  # and again
    "..;/admin", "..;a=b/admin", ";/../a", ". ./..", "..%00/admin", "..\x00", ".. /a", "\t../a", "..%20/a",
    "%c0%ae%c0%ae/admin", "%C0%AE%C0%AE%C0%AFadmin", "%e0%80%ae%e0%80%ae", "..%c0%afadmin", "..%c1%9cadmin",  # overlong UTF-8
    "%u002e%u002e%u2215admin",
    "\uff0e\uff0e/admin", "\u2025/admin", "..\uff0fadmin",  # NFKC
]  # fmt: skip

HARMLESS = [
    "a", "7", "a.b", "...", "....", "a..b", "..a", "a..", ".hidden", "a/b", "a/.b/c", "a//b", "/", "v1.2", "x;y=..", "100%", "%", "%zz",
    "a%2fb", "50%25", "\u2026", "caf\xe9", "a b", "-", "~", "2026-11-28T10:00:00Z", "a@b.example", "*.*",
]  # fmt: skip


@pytest.mark.parametrize("value", DOTS)
def test_dot_segment_is_refused_however_it_is_written(value: str) -> None:
    why = fault(value)
    assert why is not None
    assert "`..`" in why
    assert value not in why or len(value) <= 2


@pytest.mark.parametrize("value", HARMLESS)
def test_dots_that_are_no_segment_are_harmless(value: str) -> None:
    assert fault(value) is None


def test_empty_value_is_refused() -> None:
    assert fault("") == "must not be empty: it is part of a path"


@pytest.mark.parametrize("value", ["a/b", "/", "a\\b", "a%2Fb", "a%5cb", "a%252fb", "a%c0%afb", "a\uff0fb", "a%u2215b"])
def test_slash_is_refused_only_where_the_service_decodes_first(value: str) -> None:
    assert fault(value) is None
    why = fault(value, allows_slashes=False)
    assert why is not None
    assert "`/`" in why


@given(st.text(min_size=1, alphabet=st.characters(categories=["L", "N"], max_codepoint=0x2FF)))
def test_letters_and_digits_are_never_refused(value: str) -> None:
    assert fault(value, allows_slashes=False) is None


@given(st.text(alphabet="./\\%2eE5cCfF;ab", max_size=12))
def test_decoding_twice_never_gives_a_dot_segment(value: str) -> None:
    """What a service with the usual two decodings would see."""
    if fault(value) is None:
        for seen in (value, unquote(value), unquote(unquote(value))):
            assert not {".", ".."} & set(seen.replace("\\", "/").split("/"))
