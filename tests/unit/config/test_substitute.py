"""Substitution: what is substituted, what is reported, and that no value is revealed."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch.config.load import Draft, read
from anabranch.config.node import Located
from anabranch.config.parse import parse
from anabranch.config.problems import Positions, Problems
from anabranch.config.substitute import Filled, fill
from anabranch.errors import ConfigError
from tests.support.documents import sound


def _filled(text: str, environ: dict[str, str], folder: Path = Path()) -> tuple[Filled, Problems]:
    problems = Problems()
    node = parse(text, str(folder / "f.yaml"), problems.add_at)
    assert node is not None
    problems.positions = Positions(node)
    return fill(node, environ, problems), problems


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${A}", "1"), ("x${A}y${B}z", "x1y2z"), ("${NO:-d}", "d"), ("${A:-d}", "1"), ("${EMPTY:-d}", "d"), ("${EMPTY}", ""),
        ("${NO:-}", ""), ("$${A}", "${A}"), ("$$", "$$"), ("${NO:-a:b c-d}", "a:b c-d"), ("$A", "$A"), ("$${A} ${A}", "${A} 1"),
    ],
)  # fmt: skip
def test_variables_are_substituted_in_text(text: str, value: str) -> None:
    filled, problems = _filled(f"a: ['{text}', \"{text}\"]", {"A": "1", "B": "2", "EMPTY": ""})
    assert filled.data == {"a": [value, value]}
    assert problems.errors == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${NO}", "the environment variable `NO` is not set; set it, or give it a default: ${NO:-...}"),
        ("a ${A", "a `${` has no closing brace; write ${NAME}"),
        ("${}", "`${}` is not a valid substitution; write ${NAME}"),
        ("${A-d}", "`${A-d}` is not a valid substitution; write ${NAME}"),
        ("${1A}", "`${1A}` is not a valid substitution"),
        ("${NO:-${A}}", "the default of `NO` cannot contain another substitution"),
        ("${BAD}", "the environment variable `BAD` is not UTF-8"),
        ("${file:no/such}", "the secret file `no/such` cannot be read: No such file or directory"),
        ("${file:}", "a secret file needs a path"),
    ],
)
def test_an_impossible_substitution_is_located(text: str, message: str) -> None:
    filled, problems = _filled(f"k: 1\na: ['x', '{text}']", {"A": "1", "BAD": "\udcff"})
    [problem] = problems.errors
    assert str(problem).startswith(f"f.yaml:2:10: a[1]: {message}")
    assert filled.broken == {("a", 1)}


def test_all_missing_variables_are_reported() -> None:
    _, problems = _filled("a: ${X} ${Y}\nb: ${Z}\nc: ${file:no}\nd: ${file:no}", {})
    assert [problem.path for problem in problems.errors] == ["a", "a", "b", "c", "d"]


def test_a_key_is_never_substituted() -> None:
    filled, problems = _filled("${A}: 1\n$${B}: 2", {"A": "x"})
    assert list(filled.data) == ["${A}", "$${B}"]
    assert [str(problem) for problem in problems.errors] == ['f.yaml:1:1: ["${A}"]: variables are substituted only in values, not in keys']


def test_secret_files_are_relative_to_the_document_and_lose_their_newline(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hunter22\n", encoding="utf-8")
    filled, problems = _filled(f"a: Bearer ${{file:token}}\nb: ${{file:{tmp_path}/token}}", {}, tmp_path)
    assert filled.data == {"a": "Bearer hunter22", "b": "hunter22"}
    assert problems.secrets.paths == {("a",), ("b",)}
    assert filled.files == [tmp_path / "token"]


def test_secret_files_that_are_not_text_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "large").write_bytes(b"x" * (1024 * 1024 + 1))
    _, problems = _filled("a: ${file:binary}\nb: ${file:large}", {}, tmp_path)
    assert [problem.message for problem in problems.errors] == [
        "the secret file `binary` is not UTF-8 text",
        "the secret file `large` is larger than 1 MiB",
    ]


def test_an_aliased_value_is_substituted_at_each_occurrence() -> None:
    filled, problems = _filled("a: &x ${A}\nb: *x", {"A": "secret"})
    assert filled.data == {"a": "secret", "b": "secret"}
    assert problems.secrets.paths == {("a",), ("b",)}


def test_a_substituted_value_in_a_template_never_becomes_a_reference() -> None:
    text = """
endpoints:
  - path: ${P}
    steps: {s: {upstream: "${P}", path: "/${P}/{path.id}", query: {q: ["${P}"]}, wrap: "${P}"}}
    response: {body: {k: "${P}"}, headers: {h: "${P}", i: {value: "${P}"}}, status: "${P}"}
"""
    filled, _ = _filled(text, {"P": "a{b}"})
    endpoint = filled.data["endpoints"][0]
    step = endpoint["steps"]["s"]
    response = endpoint["response"]
    assert (endpoint["path"], step["upstream"], step["wrap"]) == ("a{b}",) * 3
    assert (step["path"], step["query"]["q"]) == ("/a{{b}}/{path.id}", ["a{{b}}"])
    assert (response["body"]["k"], response["headers"], response["status"]) == (
        "a{{b}}",
        {"h": "a{{b}}", "i": {"value": "a{{b}}"}},
        "a{{b}}",
    )


_DOCUMENT = """
version: 1
upstreams:
  a: {url: "${URL}", concurrency: {limit: "${LIMIT:-64}"}, http2: "${FLAG}", transport: httpx, max_response: "${SIZE}",
      retry: {budget: "${RATIO}", on: ["${STATUS}"]}, headers: {x: "${LIMIT:-64}"}, timeout: "${NONE:-}"}
"""
_ENVIRON = {"URL": "http://a", "FLAG": "true", "SIZE": "1024", "RATIO": "0.25", "STATUS": "503"}


def _load(tmp_path: Path, text: str, environ: dict[str, str]) -> Draft:
    file = tmp_path / "gateway.yaml"
    file.write_text(text, encoding="utf-8")
    return sound(file, environ)


def test_numbers_and_booleans_can_come_from_the_environment(tmp_path: Path) -> None:
    upstream = _load(tmp_path, _DOCUMENT, _ENVIRON).document.upstreams["a"]
    assert upstream.concurrency.limit == 64
    assert upstream.http2 is True
    assert upstream.max_response == 1024
    assert upstream.retry is not None
    assert (upstream.retry.budget, upstream.retry.on) == (0.25, ["503"])
    assert upstream.headers == {"x": "64"}
    assert upstream.timeout_s is None


def test_a_substituted_value_of_the_wrong_type_is_reported_without_the_value(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, _DOCUMENT, {**_ENVIRON, "LIMIT": "lots", "FLAG": "yes", "URL": "geheim://x", "STATUS": "504.5", "RATIO": "150%"})
    assert [str(problem).partition("gateway.yaml:")[2] for problem in caught.value.problems] == [
        "4:12: upstreams.a.url: a URL must begin with http:// or https://",
        "4:43: upstreams.a.concurrency.limit: must be a whole number",
        "4:67: upstreams.a.http2: must be true or false; yes, no, on and off are strings in YAML 1.2; write true or false",
        "5:23: upstreams.a.retry.budget: must be a ratio: a percentage such as 10%, or a number between 0 and 1",
        "5:40: upstreams.a.retry.on[0]: must be one of `connect`, `timeout`, `connection_lost`, `429`, `500`, `502`, `503`, `504`",
    ]


def test_neither_the_result_nor_its_models_show_values(tmp_path: Path) -> None:
    loaded = _load(tmp_path, _DOCUMENT, {**_ENVIRON, "URL": "http://geheim"})
    assert loaded.secrets.touch(("upstreams", "a", "url"))
    shown = f"{loaded!r} {loaded.document!r} {loaded.document} {loaded.document.upstreams!r} {loaded.secrets!r}"
    assert "geheim" not in shown
    draft = read(tmp_path / "gateway.yaml", _ENVIRON)
    assert isinstance(draft, Draft)
    assert "http" not in repr(draft).replace("httpx", "")


# Each has mistakes of every kind around the position of the secret.
_PLACES = [
    'upstreams: {a: {url: "S"}}',
    'upstreams: {a: {url: "http://S/S"}}',
    'upstreams: {a: {url: http://a, timeout: "S", balance: "S", concurrency: {limit: "S"}, hedge: {after: "S"}, max_response: "S"}}',
    'upstreams: {a: {url: http://a, headers: {h: "S", x y: "Bearer S"}, forward_headers: ["S"], deadline_header: "S", tls: "S"}}',
    'upstreams: {a: "S", b: ["S"], c: {urls: ["S", {k: "S"}], http2: "S", retry: {on: ["S"], budget: "S"}}}',
    'endpoints: ["S", {path: "S", method: "S", timeout: "S", steps: {s: {upstream: "S", path: "S", pick: "S", foo: "S"}}}]',
    'endpoints: [{path: /, steps: {s: {compute: "S", path: "S", executor: "S"}}, response: {status: "S", merge: "S"}, body: "S"}]',
    'endpoints: [{path: /, steps: {s: {upstream: a, path: /}}, parameters: {p: {in: "S", schema: "S"}, q: "S"}, tags: {a: "S"}}]',
    'cors: {allow_origins: "S", max_age: "S"}\nrouters: "S"\ndefaults: {max_body: "S"}\ntitel: "S"',
    'endpoints: "S"\nupstreams: "S"',
]


def _everything(error: BaseException | None) -> str:
    return "" if error is None else f"{error} {error.args!r} {_everything(error.__cause__)} {_everything(error.__context__)}"


@given(
    place=st.sampled_from(_PLACES),
    wrap=st.sampled_from(["${X}", "a ${X} b", "${X}${X}"]),
    tail=st.text(st.characters(codec="utf-8"), max_size=12),
)
@settings(max_examples=300, deadline=None)
def test_no_problem_message_leaks_a_secret(tmp_path_factory: pytest.TempPathFactory, place: str, wrap: str, tail: str) -> None:
    file = tmp_path_factory.getbasetemp() / "leak.yaml"
    file.write_text(f"version: 1\n{place.replace('S', wrap)}\n", encoding="utf-8")
    secret = f"Geheim9{tail}"
    shown = ""
    try:
        draft = read(file, {"X": secret})
        shown = repr(draft) + repr(draft.document) + "".join(map(str, draft.problems.errors))
        draft.problems.raise_if_any()
    except ConfigError as error:
        shown += _everything(error)
    assert "geheim9" not in shown.lower()


def test_a_problem_with_a_secret_file_s_content_is_located_in_the_document(tmp_path: Path) -> None:
    (tmp_path / "limit").write_text("0\n")
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, "version: 1\nupstreams: {a: {url: http://a, pool: {max_idle: '${file:limit}x'}}}", {})
    [problem] = caught.value.problems
    assert Located(problem.file, problem.line, problem.column) == (str(tmp_path / "gateway.yaml"), 2, 49)
    assert problem.value is None
