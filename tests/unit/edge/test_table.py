import re
from urllib.parse import quote, unquote_to_bytes

from hypothesis import example, given
from hypothesis import strategies as st

from anabranch.edge.table import RouteTable, Values


def found(table: RouteTable[str], path: bytes, method: str = "GET") -> tuple[str, Values] | None:
    match = table.match(path)
    return None if match is None else (match[0].methods[method], match[1])


def test_static_path_is_found() -> None:
    table = RouteTable([("GET", "/a/b", "ab"), ("GET", "/", "root")])
    assert found(table, b"/a/b") == ("ab", ())
    assert found(table, b"/") == ("root", ())


def test_parameters_come_in_the_order_of_the_segments() -> None:
    table = RouteTable([("GET", "/a/{x}/b/{y}", "axby")])
    assert found(table, b"/a/1/b/2") == ("axby", ("1", "2"))


def test_static_segment_beats_a_parameter() -> None:
    table = RouteTable([("GET", "/{x}/b", "param"), ("GET", "/a/b", "static")])
    assert found(table, b"/a/b") == ("static", ())
    assert found(table, b"/c/b") == ("param", ("c",))


def test_search_backtracks_when_a_static_segment_leads_nowhere() -> None:
    table = RouteTable([("GET", "/a/b/c", "abc"), ("GET", "/{x}/b/d", "xbd"), ("GET", "/{x}/{y}/e", "xye")])
    assert found(table, b"/a/b/d") == ("xbd", ("a",))
    assert found(table, b"/a/b/e") == ("xye", ("a", "b"))


def test_encoded_slash_stays_inside_its_segment() -> None:
    table = RouteTable([("GET", "/files/{name}", "file")])
    assert found(table, b"/files/a%2Fb") == ("file", ("a/b",))
    assert table.match(b"/files/a/b") is None


def test_segments_are_decoded_as_utf8() -> None:
    table = RouteTable([("GET", "/städte/{name}", "town")])
    assert found(table, b"/st%C3%A4dte/M%C3%BCnchen") == ("town", ("München",))
    assert found(table, "/städte/x".encode()) == ("town", ("x",))


def test_static_segments_are_the_same_however_they_are_encoded() -> None:
    table = RouteTable([("GET", "/flights", "flights"), ("GET", "/a%20b", "space")])
    assert found(table, b"/fl%69ghts") == ("flights", ())
    assert found(table, b"/a%20b") == ("space", ())


def test_value_that_is_not_utf8_is_none() -> None:
    table = RouteTable([("GET", "/files/{name}", "file")])
    assert found(table, b"/files/%FF") == ("file", (None,))
    assert table.match(b"/%FF/a") is None


def test_empty_and_dot_segments_are_not_values() -> None:
    table = RouteTable([("GET", "/a/{x}", "ax"), ("GET", "/a/{x}/b", "axb")])
    for path in (b"/a/", b"/a//b", b"/a/.", b"/a/..", b"/a/%2e%2E/b", b"/a/%2E"):
        assert table.match(path) is None, path


def test_trailing_slash_makes_a_different_path() -> None:
    table = RouteTable([("GET", "/a", "a"), ("GET", "/b/", "b")])
    assert table.match(b"/a/") is None
    assert table.match(b"/b") is None
    assert found(table, b"/b/") == ("b", ())


def test_target_that_is_not_a_path_is_not_found() -> None:
    table = RouteTable([("GET", "/{x}", "x")])
    for path in (b"", b"*", b"x/y", b"//x"):
        assert table.match(path) is None, path


def test_reserved_first_segment_is_never_a_value() -> None:
    table = RouteTable([("GET", "/{x}", "x"), ("GET", "/{x}/{y}", "xy")], reserved=("docs",))
    assert table.match(b"/docs") is None
    assert table.match(b"/%64ocs/static") is None
    assert found(table, b"/doc") == ("x", ("doc",))


def test_leaf_lists_its_methods() -> None:
    table = RouteTable([("GET", "/a/{x}", "get"), ("DELETE", "/a/{y}", "delete"), ("POST", "/b", "post")])
    match = table.match(b"/a/1")
    assert match is not None
    assert match[0].methods == {"GET": "get", "HEAD": "get", "DELETE": "delete"}
    assert match[0].allow == b"DELETE, GET, HEAD, OPTIONS"
    match = table.match(b"/b")
    assert match is not None
    assert match[0].allow == b"OPTIONS, POST"


_SEGMENTS = st.sampled_from(["a", "b", "c", "{x}", "ä", "d e"])
_PATHS = st.lists(_SEGMENTS, min_size=1, max_size=4).map(lambda segments: "/" + "/".join(segments))
_VALUES = st.sampled_from(["a", "b", "c", "ä", "d e", "z", "", ".", "..", "x/y", "%"])
_TARGETS = st.lists(_VALUES, min_size=1, max_size=4).map(lambda values: "/" + "/".join(quote(value, safe="") for value in values))


def slow_match(paths: list[str], target: str) -> tuple[str, Values] | None:
    """Tries every path; of those that match, returns the one that has a static segment at the first difference from the others."""
    best: tuple[list[bool], str, Values] | None = None
    given_segments = [unquote_to_bytes(segment).decode() for segment in target.split("/")[1:]]
    for path in paths:
        segments = path.split("/")[1:]
        if len(segments) != len(given_segments):
            continue
        pairs = list(zip(segments, given_segments, strict=True))
        if all(value not in ("", ".", "..") if segment == "{x}" else segment == value for segment, value in pairs):
            rank = [segment == "{x}" for segment in segments]
            if best is None or rank < best[0]:
                best = rank, path, tuple(value for segment, value in pairs if segment == "{x}")
    return None if best is None else (best[1], best[2])


@given(st.lists(_PATHS, min_size=1, max_size=20, unique=True), _TARGETS)
@example(["/a/b", "/{x}/c"], "/a/c")
def test_table_agrees_with_a_linear_search(paths: list[str], target: str) -> None:
    assert found(RouteTable([("GET", path, path) for path in paths]), target.encode()) == slow_match(paths, target)


_LITERALS = st.text("ab:", max_size=2)
_PATTERNS = st.one_of(
    st.text("ab:", min_size=1, max_size=3),
    st.just("{x}"),
    st.tuples(_LITERALS, _LITERALS).map(lambda ends: f"{ends[0]}{{x}}{ends[1]}"),
    st.tuples(_LITERALS, st.text("ab:", min_size=1, max_size=2), _LITERALS).map(lambda parts: f"{parts[0]}{{x}}{parts[1]}{{y}}{parts[2]}"),
)


@given(st.lists(_PATTERNS, min_size=1, max_size=12, unique=True), st.text("ab:", min_size=1, max_size=7))
@example(["{x}:", "a{x}"], "aa:")
def test_the_longest_text_beside_parameters_wins(patterns: list[str], text: str) -> None:
    fitting = []
    for pattern in patterns:
        expression = "".join("(?s:(.+?))" if part in ("{x}", "{y}") else re.escape(part) for part in re.split(r"(\{.\})", pattern))
        if (match := re.fullmatch(expression, text)) is not None:
            fitting.append(("{" not in pattern, len(re.sub(r"\{.\}", "", pattern)), pattern, match.groups()))
    got = found(RouteTable([("GET", f"/{pattern}", pattern) for pattern in patterns]), f"/{text}".encode())
    if got is None:
        assert not fitting
    else:
        best = max(fitting)[:2]
        assert got in [(pattern, values) for *rank, pattern, values in fitting if tuple(rank) == best]


def test_an_encoded_reserved_character_is_part_of_a_value() -> None:
    table = RouteTable([("GET", "/{x}:go", "go"), ("GET", "/{x}", "plain")])
    assert found(table, b"/a%3Ago") == ("plain", ("a:go",))
    assert found(table, b"/a%253A%3a%2F%:%67o") == ("go", ("a%3A:/%",))
    assert found(table, b"/%FF:go") == ("plain", (None,))


def test_rest_keeps_the_encoding_and_comes_last() -> None:
    table = RouteTable([("GET", "/a/{rest...}", "rest"), ("GET", "/a/{x}/b", "b"), ("GET", "/{rest...}", "all")], reserved=("docs",))
    assert found(table, b"/a/x/b") == ("b", ("x",))
    assert found(table, b"/a/x%2Fy/c") == ("rest", ("x%2Fy/c",))
    assert found(table, b"/a/\xc3\xbc") == ("rest", ("%C3%BC",))
    assert found(table, b"/a/%FF/c") == ("rest", (None,))
    assert found(table, b"/a") == ("all", ("a",))
    assert table.match(b"/docs/x") is None
    assert table.match(b"/a/b/%2e%2e/c") is None


def test_many_patterns_of_one_length_are_one_look_up() -> None:
    table = RouteTable([("GET", f"/{{id}}:go{number:04}", number) for number in range(1000)])
    assert table._root.patterns is not None
    assert len(table._root.patterns._groups) == 1
    match = table.match(b"/x:go0777")
    assert match is not None
    assert match[0].methods["GET"] == 777


@given(st.binary(max_size=40))
def test_any_target_is_looked_up_without_an_exception(target: bytes) -> None:
    RouteTable([("GET", "/{x}/{y}", "xy"), ("GET", "/a", "a"), ("GET", "/{x}:{y}", "p"), ("GET", "/b/{r...}", "r")]).match(b"/" + target)
