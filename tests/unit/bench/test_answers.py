from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.answers import Answers, Verdict

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\nabcde"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;x=1\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 1\r\n\r\n"
EMPTY = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


def feed(answers: Answers, pieces: list[bytes]) -> list[Verdict]:
    return [verdict for piece in pieces if (verdict := answers.feed(piece)) is not None]


@given(st.sampled_from([PLAIN, CHUNKED]), st.lists(st.integers(min_value=1, max_value=90), max_size=6))
def test_a_correct_answer_is_accepted_however_it_is_split(data: bytes, cuts: list[int]) -> None:
    bounds = [0, *sorted(set(cuts) & set(range(len(data)))), len(data)]
    pieces = [data[start:end] for start, end in pairwise(bounds)]
    answers = Answers(5)
    assert feed(answers, pieces) == [""]
    assert feed(answers, pieces) == [""]


@pytest.mark.parametrize(
    ("data", "verdict"),
    [
        (PLAIN.replace(b"200", b"502"), "status"),
        (CHUNKED.replace(b"200", b"504"), "status"),
        (PLAIN.replace(b"5\r\n", b"4\r\n").removesuffix(b"e"), "length"),
        (CHUNKED.replace(b"3;x=1\r\nabc", b"4\r\nabcd"), "length"),
        (EMPTY, "length"),
        (PLAIN + b"more", "framing"),
        (CHUNKED.replace(b"2\r\n", b"zz\r\n"), "framing"),
    ],
)
def test_each_kind_of_fault_is_named(data: bytes, verdict: Verdict) -> None:
    assert feed(Answers(5), [data]) == [verdict]


def test_any_length_is_accepted_when_none_is_expected() -> None:
    assert feed(Answers(None), [EMPTY, PLAIN]) == ["", ""]
