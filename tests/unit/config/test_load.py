"""Loading: the example of the design, our own message for every kind of mistake, and the valid parts of a broken document."""

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from anabranch.config.load import Draft, read
from anabranch.errors import ConfigError, Problem
from tests.support.documents import sound
from tests.support.example import EXAMPLE


def _file(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "gateway.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def _mistakes(tmp_path: Path, text: str) -> list[str]:
    draft = read(_file(tmp_path, text), {})
    return [str(problem).partition("gateway.yaml:")[2] for problem in draft.problems.errors]


def test_the_example_of_the_design_is_loaded(tmp_path: Path) -> None:
    loaded = sound(_file(tmp_path, EXAMPLE), {"FLIGHTS_TOKEN": "abc"})
    upstream = loaded.document.upstreams["flights"]
    assert upstream.headers == {"authorization": "Bearer abc"}
    assert upstream.retry is not None
    assert upstream.retry.on == ["connect", "timeout", "502", "503", "504"]
    assert loaded.document.upstreams["weather"].tls is not None
    [endpoint] = loaded.document.endpoints
    assert list(endpoint.steps) == ["flight", "airline", "weather", "past", "delays"]
    assert endpoint.parameters["units"].default == "metric"
    assert loaded.problems.warnings == []
    where = loaded.positions.locate(("endpoints", 0, "steps", "weather", "timeout"))
    assert EXAMPLE.splitlines()[where.line - 1][where.column - 1 :] == "300ms}"


@pytest.mark.parametrize(
    ("upstream", "expected"),
    [
        ("url: http://a, timout: 1s", "2:32: upstreams.u.timout: unknown key `timout`; did you mean `timeout`?"),
        ("url: http://a, timeout_s: 1s", "2:32: upstreams.u.timeout_s: unknown key `timeout_s`; did you mean `timeout`?"),
        ("url: http://a, timeout: 2", "2:41: upstreams.u.timeout: must be a duration with a unit, such as 250ms, 2s or 1m (found 2)"),
        ("url: http://a, timeout: 0s", '2:41: upstreams.u.timeout: must be longer than zero (found "0s")'),
        ("url: 5", "2:22: upstreams.u.url: must be a string (found 5); put it in quotes"),
        ("url: {a}", '2:22: upstreams.u.url: must be a string (found {"a": null}); put it in quotes: without them YAML reads braces'),
        ("urls: http://a", '2:23: upstreams.u.urls: must be a list (found "http://a"); write it as a list: [...]'),
        ("urls: []", "2:23: upstreams.u.urls: must have at least 1 entry (found [])"),
        ("url: http://a:x", '2:22: upstreams.u.url: must be a URL such as http://host:8080/base (found "http://a:x")'),
        ("url: http://u:p@a", "2:22: upstreams.u.url: credentials are not allowed in a URL; set a header instead"),
        ("url: http://a:0", '2:22: upstreams.u.url: the port must be between 1 and 65535 (found "http://a:0")'),
        ("url: http://a, http2: on, transport: httpx", '2:39: upstreams.u.http2: must be true or false (found "on"); yes, no, on and'),
        ("url: http://a, follow_redirects: 11", "2:50: upstreams.u.follow_redirects: must be at most 10 (found 11)"),
        ("url: http://a, follow_redirects: '1'", '2:50: upstreams.u.follow_redirects: must be a whole number (found "1"); write it'),
        ("url: http://a, follow_redirects: 1.5", "2:50: upstreams.u.follow_redirects: must be a whole number (found 1.5)"),
        ("url: http://a, concurrency: {limit: 0}", "2:53: upstreams.u.concurrency.limit: must be at least 1 (found 0)"),
        ("url: http://a, concurrency: null", "2:45: upstreams.u.concurrency: must be a mapping, not null"),
        ("url: http://a, transport: wir", '2:43: upstreams.u.transport: must be one of `wire`, `httpx` (found "wir"); did you mean `wire`?'),
        ("url: http://a, hedge: {}", "2:32: upstreams.u.hedge: the key `after` is missing"),
        ("url: http://a, hedge: {after: p100}", "2:47: upstreams.u.hedge.after: a quantile must be above p0 and below p100, such as p95 (found"),
        ("url: http://a, headers: {a b: c}", '2:42: upstreams.u.headers["a b"]: a header name must have at most 128 characters'),
        ('url: http://a, headers: {a: "x\\r\\ny: z"}', "2:45: upstreams.u.headers.a: a header value must not contain line breaks"),
        ("url: http://a, urls: [http://b]", "2:13: upstreams.u: an upstream needs either `url` or `urls`, not both"),
        ("", "2:13: upstreams.u: an upstream needs either `url` or `urls`, not both"),
        ("url: http://a, http2: true", "2:13: upstreams.u: `http2` and `proxy` need `transport: httpx`"),
        ("url: http://a, concurrency: {adaptive: aimd, limit: 4}", "2:32: upstreams.u.concurrency: an adaptive limit needs min <= limit"),
        ("url: http://a, tls: {min_version: 1.1}", "2:51: upstreams.u.tls.min_version: must be one of `1.2`, `1.3` (found 1.1)"),
    ],
)  # fmt: skip
def test_a_mistake_in_an_upstream_gets_our_own_message(tmp_path: Path, upstream: str, expected: str) -> None:
    [mistake] = _mistakes(tmp_path, f"version: 1\nupstreams: {{u: {{{upstream}}}}}\n")
    assert mistake.startswith(expected)
    assert "Value error" not in mistake


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("version: 2", "1:10: version: must be 1 (found 2)"),
        ("title: x", "1:1: document: the key `version` is missing"),
        ("version: 1\nupstreams: [a]", '2:12: upstreams: must be a mapping (found ["a"])'),
        ("version: 1\nendpoints:", "2:1: endpoints: must be a list, not null"),
        ("version: 1\nendpoints: [5]", "2:13: endpoints[0]: must be a mapping (found 5)"),
        ("version: 1\nendpoints: [{path: /}]", "2:13: endpoints[0]: the key `steps` is missing"),
        ("version: 1\nendpoints: [{path: /, steps: {}}]", "2:30: endpoints[0].steps: must have at least 1 entry (found {})"),
        ("version: 1\nupstreams: {9x: {url: http://a}}", "2:13: upstreams.9x: a name must begin with a letter or `_`"),
        ("version: 1\nendpoints: [{path: /, body: {schema: 5}, steps: {s: {upstream: u, path: /}}}]",
         "2:38: endpoints[0].body.schema: must be a mapping, or true or false (found 5)"),
        ("version: 1\nendpoints: [{path: /, steps: {s: {path: /}}}]",
         "2:31: endpoints[0].steps.s: a step needs either `upstream` (a call) or `compute` (a compute step)"),
        ("version: 1\nendpoints: [{path: /, steps: {s: {upstrem: u, path: /}}}]",
         "2:31: endpoints[0].steps.s: a step needs either `upstream` (a call) or `compute` (a compute step) or `any` (a step with `any`) or `join` (a join), not `upstrem`; did you mean `upstream`?"),
        ("version: 1\nendpoints: [{path: /, steps: {s: {upstream: u, compute: 'm:f', path: /}}}]",
         "2:31: endpoints[0].steps.s: a step needs either `upstream` (a call) or `compute` (a compute step) or `any` (a step with `any`) or `join` (a join), and not several"),
        ("version: 1\nendpoints: [{path: /, steps: {s: {upstream: u}}}]", "2:31: endpoints[0].steps.s: the key `path` is missing"),
        ("version: 1\nendpoints: [{path: /, steps: {s: {compute: 'm:f', path: /}}}]",
         "2:51: endpoints[0].steps.s.path: a compute step cannot have `path`"),
        ("version: 1\nendpoints: [{path: /, steps: {s: {upstream: u, path: /, stale_if_eror: 1s}}}]",
         "2:57: endpoints[0].steps.s.stale_if_eror: unknown key `stale_if_eror`; did you mean `stale_if_error`?"),
        ("version: 1\nendpoints: [{path: /, steps: {1s: {upstream: u, path: /}}}]", "2:31: endpoints[0].steps.1s: a name must begin with a letter"),
        ("version: 1\nendpoints: [{path: /, response: {body: 1, merge: flat}, steps: {s: {upstream: u, path: /}}}]",
         "2:23: endpoints[0].response: a response with `body` cannot have `merge` or `arrays`"),
        ("version: 1\nendpoints: [{path: /, steps: {s: {upstream: u, path: /, pick: [a, b..c]}}}]",
         '2:67: endpoints[0].steps.s.pick[1]: a path must be names separated by dots, such as orders.sku (found "b..c")'),
        ("version: 1\nendpoints: [{path: /, steps: {s: {upstream: u, path: /, drop: ['@odata.count']}}}]",
         '2:64: endpoints[0].steps.s.drop[0]: a name with an @ before a dot must be in double quotes: write "@odata.count" if the dot is part'),
        ("version: 1\nendpoints: [{path: /, steps: {s: {upstream: u, path: /, target: ''}}}]",
         "2:65: endpoints[0].steps.s.target: a path must be names separated by dots"),
        ("version: 1\nendpoints: [{path: /, steps: {s: {upstream: u, path: /, target: '{query.x}'}}}]",
         "2:65: endpoints[0].steps.s.target: a path is no template"),
        ("version: 1\nendpoints: [{path: /, steps: {s: {upstream: u, path: /, rename: {a: b.c}}}}]",
         "2:69: endpoints[0].steps.s.rename.a: a new name must be a name, not a path"),
        ("version: 1\nendpoints: [{path: /, steps: {s: {upstream: u, path: /, rename: {a..b: c}}}}]",
         '2:66: endpoints[0].steps.s.rename["a..b"]: a path must be names separated by dots'),
        ("version: 1\njournal: {redact: {paths: [a, '@odata.count']}}",
         "2:31: journal.redact.paths[1]: a name with an @ before a dot must be in double quotes"),
        ("version: 1\njournal: {redact: {paths: ['**.a.b']}}",
         "2:28: journal.redact.paths[0]: `**.` is followed by one name; a name with a dot is written in double quotes"),
        ("version: 1\nendpoints: [{path: /, parameters: {p: {}}, steps: {s: {upstream: u, path: /}}}]",
         "2:36: endpoints[0].parameters.p: the key `in` is missing"),
    ],
)  # fmt: skip
def test_a_mistake_elsewhere_gets_our_own_message(tmp_path: Path, text: str, expected: str) -> None:
    [mistake] = _mistakes(tmp_path, text)
    assert mistake.startswith(expected)


def test_every_key_that_belongs_to_another_kind_of_step_is_told(tmp_path: Path) -> None:
    text = "version: 1\nendpoints: [{path: /, steps: {s: {compute: 'm:f', path: /, query: {}}, t: {upstream: u, path: /, input: {}}}}]"
    assert _mistakes(tmp_path, text) == [
        "2:51: endpoints[0].steps.s.path: a compute step cannot have `path`",
        "2:60: endpoints[0].steps.s.query: a compute step cannot have `query`",
        "2:98: endpoints[0].steps.t.input: a call cannot have `input`",
    ]


def test_many_mistakes_are_reported_in_one_run_with_their_positions(tmp_path: Path) -> None:
    text = """\
version: 1
defaults: {timeout: 2}
upstreams:
  flights:
    url: ftp://127.0.0.1:9101
    timout: 800ms
  weather:
    url: http://127.0.0.1:9102
    timeout: 1s
    timeout: 2s
    retry: {attempts: 30, on: [conect], backoff: 0s}
    headers: {authorization: "Bearer ${TOKEN}"}
endpoints:
  - path: /a
    steps:
      a: {upstream: weather, path: {x.y}, hidden: yes}
      b: {compute: "x:y", path: /}
      c: {upstream: weather, path: *nowhere}
  - method: GTE
    path: /b
    steps: {a: {upstream: weather, path: "/${file:gone}"}}
  - {path: /c}
journl: 1
"""
    assert [mistake.split(": ")[0] for mistake in _mistakes(tmp_path, text)] == [
        "2:21", "5:10", "6:5", "10:5", "11:23", "11:32", "11:50", "12:30", "16:36", "16:51", "17:27", "18:36", "19:13", "21:42", "22:5", "23:1",
    ]  # fmt: skip


def _draft(tmp_path: Path, text: str) -> Draft:
    return read(_file(tmp_path, text), {})


def test_the_valid_parts_of_a_broken_document_are_kept(tmp_path: Path) -> None:
    draft = _draft(
        tmp_path,
        """\
version: 7
title: Kept
defaults: {timeout: soon}
upstreams: {good: {url: http://a}, bad: {url: 5}}
endpoints:
  - {steps: {s: {upstream: good, path: /}}}
  - path: /kept
    timeout: soon
    parameters: {p: {in: query}, q: {in: cellar}}
    steps:
      fine: {upstream: good, path: /}
      reduced: {upstream: good, path: /, timeout: soon}
      lost: {upstream: good}
""",
    )
    document = draft.document
    assert (document.version, document.title, document.defaults.timeout_s) == (1, "Kept", 2.0)
    assert list(document.upstreams) == ["good"]
    [endpoint] = document.endpoints
    assert draft.endpoint_paths == (("endpoints", 1),)
    assert (endpoint.path, endpoint.timeout_s) == ("/kept", None)
    assert list(endpoint.steps) == ["fine", "reduced"]
    assert list(endpoint.parameters) == ["p"]
    assert draft.is_broken(("upstreams", "bad"))
    assert draft.is_broken(("endpoints", 1, "steps", "lost"))
    assert draft.is_broken(("endpoints", 1, "parameters", "q"))
    assert {("endpoints", 0), ("endpoints", 1), ("endpoints", 1, "steps", "reduced"), ("endpoints", 1, "steps", "reduced", "timeout")} <= (
        draft.broken
    )
    assert not draft.is_broken(("upstreams", "good"))
    assert not draft.is_broken(("endpoints", 1, "steps", "fine"))
    assert len(draft.problems.errors) == 8


def test_consequences_of_a_missing_value_are_not_reported_again(tmp_path: Path) -> None:
    draft = _draft(
        tmp_path,
        """\
version: 1
upstreams: {a: {url: "${URL}"}, b: {url: http://b, headers: {x: "${X}"}}}
endpoints: [{path: /, steps: {s: {upstream: "${UP}", path: /}, t: {upstream: a, path: "${P}", timeout: "${T}"}}}]
""",
    )
    assert [problem.message.split("`")[1] for problem in draft.problems.errors] == ["URL", "X", "UP", "P", "T"]
    assert draft.document.upstreams == {}
    assert draft.is_broken(("upstreams", "a"))
    assert draft.is_broken(("upstreams", "b"))
    assert draft.document.endpoints[0].steps == {}
    assert {("endpoints", 0, "steps", "s"), ("endpoints", 0, "steps", "t")} <= draft.broken


def test_a_section_of_the_wrong_type_is_broken_as_a_whole(tmp_path: Path) -> None:
    draft = _draft(tmp_path, "version: 1\nupstreams: 5\nendpoints: {}")
    assert draft.is_broken(("upstreams", "anything"))
    assert len(draft.problems.errors) == 2


def test_a_duplicate_section_keeps_the_entries_of_both(tmp_path: Path) -> None:
    draft = _draft(tmp_path, "version: 1\nupstreams: {a: {url: http://a}}\nupstreams: {b: {url: http://b}}")
    assert list(draft.document.upstreams) == ["a", "b"]
    assert len(draft.problems.errors) == 1


def test_a_mistake_behind_an_alias_is_reported_once(tmp_path: Path) -> None:
    text = "version: 1\nupstreams:\n  a: &a {url: http://a, timeout: 5}\n  b: *a\n  c: {<<: *a, transport: httpx}"
    assert len(_mistakes(tmp_path, text)) == 1


def test_semantic_problems_join_the_others_in_order(tmp_path: Path) -> None:
    draft = _draft(tmp_path, "version: 1\nendpoints: [{path: /, steps: {s: {upstream: u, path: /, required: 1}}}]\ntitel: x")
    draft.problems.add(("endpoints", 0, "steps", "s", "upstream"), "unknown upstream `u`", value="u")
    with pytest.raises(ConfigError) as caught:
        draft.problems.raise_if_any()
    assert [(problem.line, problem.column) for problem in caught.value.problems] == [(2, 45), (2, 67), (3, 1)]


def test_a_thousand_endpoints_are_loaded(tmp_path: Path) -> None:
    endpoint = "  - {path: /e%d, steps: {s: {upstream: u, path: /}, t: {upstream: u, path: '/{s.x}'}}}\n"
    text = "version: 1\nupstreams: {u: {url: http://a}}\nendpoints:\n" + "".join(endpoint % n for n in range(1000))
    assert len(sound(_file(tmp_path, text), {}).document.endpoints) == 1000


_KEYS = [
    "version",
    "upstreams",
    "endpoints",
    "steps",
    "path",
    "url",
    "s",
    "retry",
    "on",
    "body",
    "schema",
    "parameters",
    "in",
    "headers",
    "x",
]
_LEAVES = st.sampled_from([1, 0, -1, True, None, 1.5, "1", "1", "2s", "/", "${A}", "${A:-1}", "${", "http://a", "GET", "x y", ""])
_DOCUMENTS = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=5), max_leaves=20
)


@given(_DOCUMENTS)
@example({"version": 1, "endpoints": ["${A:-1}"], "upstreams": {"s": "${A:-1}"}})
@example({"version": 1, "endpoints": [{"path": "/", "steps": "${A:-1}", "parameters": "${A:-1}"}]})
@settings(max_examples=400, deadline=None)
def test_any_document_yields_a_draft_or_a_config_error(tmp_path_factory: pytest.TempPathFactory, document: object) -> None:
    _read_anything(tmp_path_factory, repr_yaml(document))


@given(st.text(max_size=80))
@settings(max_examples=200, deadline=None)
def test_any_text_yields_a_draft_or_a_config_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    _read_anything(tmp_path_factory, text)


def repr_yaml(value: object) -> str:
    """`value` as flow YAML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {repr_yaml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(repr_yaml, value)) + "]"
    if isinstance(value, str):
        return f'"{value}"'
    return "null" if value is None else str(value).lower()


def _read_anything(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    problems: list[Problem] = []
    try:
        problems = read(file, {}).problems.errors
        sound(file, {})
    except ConfigError as error:
        problems = error.problems or problems
    else:
        assert problems == []
    for problem in problems:
        assert problem.line >= 1
        assert problem.column >= 1
        assert str(problem).isprintable()


def test_tls_files_are_resolved_relative_to_the_file_that_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "conf"
    folder.mkdir()
    (folder / "a.yaml").write_text("version: 1\nupstreams: {a: {url: https://a, tls: {ca: certs/ca.pem, cert: ../c.pem, key: '${KEY}'}}}\n")
    (folder / "b.yaml").write_text("upstreams: {b: {url: https://b, tls: {ca: /etc/ca.pem}}, c: {url: https://c, tls: {verify: false}}}\n")
    upstreams = sound(folder, {"KEY": "k.pem"}).document.upstreams
    tls = upstreams["a"].tls
    assert tls is not None
    assert (tls.ca, tls.cert, tls.key) == (f"{folder}/certs/ca.pem", f"{folder}/../c.pem", f"{folder}/k.pem")
    assert [one.tls and one.tls.ca for one in (upstreams["b"], upstreams["c"])] == ["/etc/ca.pem", None]
    monkeypatch.chdir(tmp_path)
    tls = sound(Path("conf"), {"KEY": "k.pem"}).document.upstreams["a"].tls
    assert tls is not None
    assert tls.ca == "conf/certs/ca.pem"


@pytest.mark.parametrize(
    "upstream",
    [
        "url: https://user:tulip-77@host",
        "url: https://tulip-77@host",
        "url: 'https://user:tulip 77@host'",
        "url: 'https://user:tulip\"77@host'",
        "url: user:tulip-77@host",
        "url: //user:tulip-77@host",
        "url: https:/user:tulip-77@host",
        "url: ftp://user:tulip-77@host",
        "url: https://user:tulip/77@host",
        "urls: [http://a, https://user:tulip-77@host]",
        "urls: https://user:tulip-77@host",
        "url: http://a, transport: httpx, proxy: http://user:tulip-77@host",
        "url: [{x: https://user:tulip-77@host}]",
        "url: http://a, oauth2: {token_url: https://user:tulip-77@host, client_id: a, client_secret: b}",
        "url: http://a, oauth2: {client_secret: [tulip-77]}",
        "url: http://a, headers: {authorization: [tulip-77]}",
        'url: http://a, headers: {authorization: "tulip-77\\n"}',
        "url: http://a, unknown: https://user:tulip-77@host",
        "urls: {headers: {x: tulip-77}}",
    ],
)
def test_credentials_written_in_the_document_are_in_no_problem(tmp_path: Path, upstream: str) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(f"version: 1\nupstreams:\n  a: {{{upstream}}}\n")
    with pytest.raises(ConfigError) as caught:
        sound(file, {})
    shown = " ".join([str(caught.value), *map(str, caught.value.problems), *map(repr, caught.value.problems)])
    assert "tulip" not in shown
    assert "77" not in shown
