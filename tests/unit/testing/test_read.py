"""Mistakes in spec files are found where they stand, and all at once."""

import json
from pathlib import Path

import jsonschema_rs
import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML

from anabranch.testing.scripted.behaviour import Behaviour
from anabranch.testing.scripted.upstream import Script, ScriptedUpstream
from anabranch.testing.specs.model import Case, Expect, ExpectedProblem, Seen, Sent, Shared
from anabranch.testing.specs.read import SpecError, read_spec_file, spec_files
from anabranch.testing.specs.schema import spec_schema
from tests.support.paths import ROOT

GOOD = "requests: [{send: GET /, expect: {status: 200}}]"


def refused(folder: Path, text: str) -> str:
    (folder / "x.yaml").write_text(text, "utf-8")
    with pytest.raises(SpecError) as error:
        read_spec_file(folder / "x.yaml")
    return str(error.value).replace(f"{folder}/", "")


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("{name: a, endpoint: {}, requets: []}", "x.yaml:3:28: cases[0].requets: unknown key `requets`; did you mean `requests`?"),
        ("{name: a, endpoint: {}}", "x.yaml:3:4: cases[0]: a case has either requests or expect_problems"),
        ("{name: a, endpoint: {}, requests: []}", "a case has either requests or expect_problems"),
        ("{name: a, endpoint: {}, document: {}, expect_problems: []}", "only one of document and endpoint"),
        ("{name: a, expect_problems: []}", "the case has no document; add `document: FILE` to the top of the file"),
        (f"{{name: a, document: {{}}, configure: {{a: {{}}}}, {GOOD}}}", "configure goes with endpoint"),
        (f"{{name: a, endpoint: {{}}, upstreams: {{u: {{}}}}, {GOOD}}}", "a case with upstreams says how often they are hit: hits"),
        (f"{{name: a, endpoint: {{}}, hits: {{u: 1}}, {GOOD}}}", "there is no upstream u in this case"),
        ("{name: a, endpoint: {}, requests: [{send: GET /}]}", "a request has either expect or leave_after_hits"),
        ("{name: a, endpoint: {}, requests: [{send: GET, expect: {status: 200}}]}", "cases[0].requests[0].send: is not valid here"),
        ("{name: a, endpoint: {}, requests: [{send: GET /, body: a, json: 1, expect: {status: 200}}]}", "only one of json, body"),
        ("{name: a, endpoint: {}, requests: [{expect: {status: 200}}]}", "a request has either send or raw"),
        ('{name: a, endpoint: {}, requests: [{raw: "x", headers: {a: "1"}, expect: {status: 200}}]}', "headers has no effect"),
        ("{name: a, endpoint: {}, requests: [{send: GET /, repeat: 2, expect: {status: 200}}]}", "repeat goes with a body"),
        ("{name: a, endpoint: {}, requests: [{send: GET /, expect: [{status: 200}, {status: 200}]}]}", "several answers go with raw"),
        ('{name: a, endpoint: {}, requests: [{send: GET /, expect: {status: "200"}}]}', "expect.status: must be a whole number"),
        (
            "{name: a, endpoint: {}, requests: [{send: GET /, expect: {status: 200, headers: {x: {contians: y}}}}]}",
            "did you mean `contains`",
        ),
        ("{name: a, endpoint: {}, requests: [{send: GET /, expect: {status: 200, headers: {x: 1}}}]}", "must be a string, or a mapping of"),
        ("{name: a, endpoint: {}, requests: [{send: GET /, expect: {status: 200, body: {}}}]}", "one of contains, excludes, matches"),
        ("{name: a, endpoint: {}, requests: [{send: GET /, expect: {status: 200, body: {matches: '('}}}]}", "not a regular expression"),
        (
            "{name: a, endpoint: {}, requests: [{send: GET /, headers: {x: 1}, expect: {status: 200}}]}",
            "must be a string, or a list of strings",
        ),
        ("{name: a, endpoint: {}, requests: [{send: GET /, wait: 1, expect: {status: 200}}]}", "must be a duration with a unit"),
        (
            f"{{name: a, endpoint: {{}}, upstreams: {{u: {{/x: {{explode: true}}}}}}, hits: {{}}, {GOOD}}}",
            "upstreams.u./x.explode: unknown key",
        ),
        (f"{{name: a, endpoint: {{}}, upstreams: {{u: {{/x: [{{jsn: 1}}]}}}}, hits: {{}}, {GOOD}}}", "did you mean `json`"),
        (
            f"{{name: a, endpoint: {{}}, upstreams: {{u: {{/x: {{}}, close: 1}}}}, hits: {{}}, {GOOD}}}",
            "a route is `/path`, `METHOD /path`",
        ),
        (f"{{name: a, endpoint: {{}}, upstreams: {{u: {{routes: {{x: {{}}}}}}}}, hits: {{}}, {GOOD}}}", "a route is `/path`"),
        (f"{{name: a, endpoint: {{}}, upstreams: {{u: {{down: 1}}}}, hits: {{}}, {GOOD}}}", "upstreams.u.down: must be true or false"),
        (
            f"{{name: a, endpoint: {{}}, upstreams: {{u: {{/x: {{json: 1, body: a}}}}}}, hits: {{}}, {GOOD}}}",
            "an answer has only one of json, body",
        ),
        (f"{{name: a, endpoint: {{}}, upstreams: {{u: {{/x: {{json: 1, repeat: 2}}}}}}, hits: {{}}, {GOOD}}}", "repeat goes with body"),
        (f"{{name: a, endpoint: {{}}, upstreams: {{u: {{}}}}, hits: {{u: many}}, {GOOD}}}", "must be a number, or a range such as 1..2"),
        (
            f"{{name: a, endpoint: {{}}, settings: {{allow_explian: true}}, {GOOD}}}",
            "there is no setting allow_explian; did you mean `allow_explain`",
        ),
        (
            f"{{name: a, endpoint: {{}}, settings: {{max_requests: -1}}, {GOOD}}}",
            "max_requests: Input should be greater than or equal to 0",
        ),
        (f"{{name: a, name: b, endpoint: {{}}, {GOOD}}}", "name"),
        ("17", "x.yaml:3:4: cases[0]: must be a mapping"),
    ],
)
def test_a_case_with_a_mistake_is_refused(tmp_path: Path, case: str, said: str) -> None:
    assert said in refused(tmp_path, f"about: x\ncases:\n - {case}\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "x.yaml:1:1: document: a spec file is a mapping with `about` and `cases`"),
        ("- a", "a spec file is a mapping"),
        ("about: x", "a spec file has a list of `cases`, with one at least"),
        ("about: x\ncases: []", "a spec file has a list of `cases`"),
        ("cases: [{name: a, endpoint: {}, expect_problems: []}]", "the key `about` is missing"),
        ("about: x\nabuot: y\ncases: [{name: a, endpoint: {}, expect_problems: []}]", "x.yaml:2:1: abuot: unknown key `abuot`"),
        (
            "about: x\nupstreams: {u: {/x: {jsn: 1}}}\ncases: [{name: a, endpoint: {}, expect_problems: []}]",
            "x.yaml:2:22: upstreams.u./x.jsn: unknown key `jsn`; did you mean `json`?",
        ),
        ("about: x\ncases: [{name: a", "x.yaml:2:"),
        (
            "about: x\ncases:\n - {name: a, endpoint: {}, expect_problems: []}\n - {name: a, endpoint: {}, expect_problems: []}",
            "x.yaml:4:11",
        ),
    ],
)
def test_a_file_with_a_mistake_is_refused(tmp_path: Path, text: str, said: str) -> None:
    assert said in refused(tmp_path, text)


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    told = refused(tmp_path, "abuot: x\ncases:\n - {name: a, endpoint: {}, requets: []}\n - {name: b, endpont: {}, expect_problems: []}\n")
    assert [line.split(": ")[1] for line in told.splitlines()] == ["document", "abuot", "cases[0].requets", "cases[1]", "cases[1].endpont"]


def test_a_file_that_is_not_there_or_no_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read: No such file"):
        read_spec_file(tmp_path / "none.yaml")
    (tmp_path / "x.yaml").write_bytes(b"about: \xff")
    with pytest.raises(SpecError, match="not UTF-8"):
        read_spec_file(tmp_path / "x.yaml")
    with pytest.raises(SpecError, match="no such file or folder"):
        spec_files(tmp_path / "none")


def test_what_is_shared_holds_for_every_case_and_a_case_replaces_it(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(
        f"""
about: x
document: ../gateway.yaml
env: {{A: "1", B: "1"}}
settings: {{docs: false}}
upstreams: {{u: {{/a: {{json: 1}}, /b: {{json: 1}}}}, v: {{close_after: 1, routes: {{"*": {{json: 1}}}}}}}}
cases:
  - {{name: as shared, {GOOD}}}
  - name: own
    env: {{B: "2"}}
    settings: {{allow_explain: true}}
    upstreams: {{u: {{/b: {{json: 2}}, /c: {{json: 2}}}}, v: {{down: true}}, w: {{}}}}
    {GOOD}
  - {{name: inline, endpoint: {{}}, hits: {{}}, {GOOD}}}
""",
        "utf-8",
    )
    shared, own, inline = read_spec_file(tmp_path / "x.yaml")
    assert (shared.line, shared.document, inline.document) == (8, tmp_path / "../gateway.yaml", None)
    assert set(shared.case.upstreams) == {"u", "v"}
    assert own.case.env == {"A": "1", "B": "2"}
    assert own.case.settings == {"docs": False, "allow_explain": True}
    assert {route: behaviours[0].json_ for route, behaviours in own.case.upstreams["u"].routes.items()} == {"/a": 1, "/b": 2, "/c": 2}
    assert (own.case.upstreams["v"].down, own.case.upstreams["v"].close_after, list(own.case.upstreams["v"].routes)) == (True, 1, ["*"])
    other = read_spec_file(tmp_path / "x.yaml", document=Path("other.yaml"), default=Path("default.yaml"))
    assert [spec.document for spec in other] == [Path("other.yaml"), Path("other.yaml"), None]


@pytest.mark.parametrize(
    ("own", "kept"),
    [
        ("/b", ["/a", "GET /a", "/a/1", "GET /a/{x}"]),
        ("*", []),
        ("/a", ["/a/1", "GET /a/{x}"]),
        ("GET /a", ["/a", "/a/1", "GET /a/{x}"]),
        ("POST /a", ["/a", "GET /a", "/a/1", "GET /a/{x}"]),
        ("/a/{y}", ["/a", "GET /a"]),
        ("/a/2", ["/a", "GET /a", "/a/1", "GET /a/{x}"]),
    ],
)
def test_a_route_of_a_case_replaces_the_shared_routes_that_it_covers(tmp_path: Path, own: str, kept: list[str]) -> None:
    (tmp_path / "x.yaml").write_text(
        f"""
about: x
document: d.yaml
upstreams: {{u: {{/a: {{}}, GET /a: {{}}, /a/1: {{}}, "GET /a/{{x}}": {{}}}}}}
cases: [{{name: own, upstreams: {{u: {{"{own}": {{}}}}}}, {GOOD}}}]
""",
        "utf-8",
    )
    (spec,) = read_spec_file(tmp_path / "x.yaml")
    assert list(spec.case.upstreams["u"].routes) == [*kept, own]


def test_folders_are_searched_in_order(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yml", "c/d.yaml", "e.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [str(file.relative_to(tmp_path)) for file in spec_files(tmp_path)] == ["a.yml", "b.yaml", "c/d.yaml"]
    assert spec_files(tmp_path / "e.txt") == [tmp_path / "e.txt"]


def test_a_script_in_python_is_checked_too() -> None:
    with pytest.raises(ValueError, match="explode"):
        ScriptedUpstream({"/x": {"explode": True}})
    upstream = ScriptedUpstream({"/x": {"json": 1}})
    with pytest.raises(ValueError, match="a route is"):
        upstream.on("x", {"json": 1})


# ------------------------------------------------------------------------------------------------------ schema and reference

REFERENCE = (ROOT / "docs" / "specs.md").read_text("utf-8")


@pytest.mark.parametrize("model", [Shared, Case, Sent, Expect, Seen, ExpectedProblem, Script, Behaviour])
def test_every_key_of_a_spec_is_documented(model: type[BaseModel]) -> None:
    keys = [field.alias or name for name, field in model.model_fields.items()]
    assert [key for key in keys if f"`{key}`" not in REFERENCE] == []


@pytest.mark.parametrize("path", [*spec_files(ROOT / "tests" / "specs"), *spec_files(ROOT / "demo" / "specs")], ids=lambda path: path.stem)
def test_spec_files_match_the_schema(path: Path) -> None:
    content = YAML(typ="safe", pure=True).load(path.read_text("utf-8"))
    found = [f"{error.instance_path}: {error.message}" for error in jsonschema_rs.validator_for(spec_schema()).iter_errors(content)]
    assert found == []


@pytest.mark.parametrize(
    "case",
    [
        {"name": "a", "endpoint": {}, "requets": []},
        {"name": "a", "upstreams": {"u": {"/x": {"explode": True}}}},
        {"name": "a", "upstreams": {"u": {"x": {}}}},
        {"name": "a", "requests": [{"send": "GET /", "expect": {"status": "200"}}]},
        {"name": "a", "requests": [{"send": "GET /", "headers": {"x": 1}}]},
        {"name": "a", "hits": {"u": "many"}},
    ],
)
def test_the_schema_finds_mistakes(case: dict[str, object]) -> None:
    valid = jsonschema_rs.validator_for(json.loads(json.dumps(spec_schema())))
    assert valid.is_valid({"about": "x", "cases": [{"name": "a"}]})
    assert not valid.is_valid({"about": "x", "cases": [case]})
