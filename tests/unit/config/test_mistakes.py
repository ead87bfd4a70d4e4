"""A document with mistakes of every kind, from its syntax to its graph: all reported in one run, each at its position, none twice."""

from pathlib import Path

import pytest

from anabranch.config.load import read
from anabranch.errors import Problem
from anabranch.plan.compile import compile_document

_TEXT = """\
version: 1
upstreams:
  flights: {url: http://127.0.0.1:9101, timout: 800ms}
  weather:
    url: http://127.0.0.1:9102
    timeout: 1s
    timeout: 2s
  airlines: {url: "${AIRLINES}"}
endpoints:
  - path: /a/{id}
    timeout: soon
    steps:
      flight: {upstream: fligts, path: "/f/{path.id}"}
      a: {upstream: airlines, path: "/{b.x}"}
      b: {upstream: weather, path: "/{a.x}", requierd: true}
      c: {upstream: weather, path: "/{nope.x}", hidden: yes}
      d: {upstream: weather, path: "/{lost.x}"}
      lost: {upstream: weather}
  - path: /a/{other}
    steps: {s: {upstream: weather, path: "/{query.q}"}}
"""

_EXPECTED = [
    (3, 41, "unknown key `timout`"),
    (7, 5, "duplicate key `timeout`"),
    (8, 19, "the environment variable `AIRLINES` is not set"),
    (11, 14, "must be a duration with a unit"),
    (13, 26, "unknown upstream `fligts`"),
    (14, 7, "the steps depend on each other in a cycle: a -> b -> a"),
    (15, 46, "unknown key `requierd`"),
    (16, 36, "unknown step `nope`"),
    (16, 57, "must be true or false"),
    (18, 7, "the key `path` is missing"),
    (19, 11, "GET /a/{other} matches the same requests as the endpoint at "),
    (20, 42, "unknown query parameter `q`"),
]


def test_every_mistake_of_every_kind_is_found_in_one_run(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(_TEXT, encoding="utf-8")
    draft = read(file, {})
    compile_document(draft.document, draft.problems, endpoint_paths=draft.endpoint_paths, broken=draft.broken)
    found = [(problem.line, problem.column, problem.message) for problem in draft.problems.errors]
    assert [(line, column) for line, column, _ in found] == [(line, column) for line, column, _ in _EXPECTED]
    for (_, _, message), (_, _, expected) in zip(found, _EXPECTED, strict=True):
        assert message.startswith(expected)


_REFERRING = """\
version: 1
upstreams: {u: {url: http://127.0.0.1:9101}}
endpoints:
  - path: /a
    parameters: PARAMETERS
    steps: {s: {upstream: u, path: "/{query.units}", headers: {x-units: "{header.Units}"}}, t: {upstream: u, path: "/{path.units}"}}
"""


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("{units: {in: qery}}", "must be one of `path`, `query`, `header`, `cookie`"),
        ("{units: {}}", "the key `in` is missing"),
        ("{units: 5}", "must be a mapping"),
        ("{units: {in: path}}", "the path has no parameter `units`"),
        ("[units]", "must be a mapping"),
    ],
)
def test_a_parameter_with_an_invalid_location_is_one_problem_however_often_it_is_referenced(
    tmp_path: Path, parameters: str, expected: str
) -> None:
    (only,) = _problems(tmp_path, _REFERRING.replace("PARAMETERS", parameters))
    assert only.message.startswith(expected)


def test_a_reference_to_the_wrong_parameter_location_names_the_declared_one(tmp_path: Path) -> None:
    found = _problems(tmp_path, _REFERRING.replace("PARAMETERS", "{units: {in: query}, other: {in: qery}}"))
    assert [(problem.message.partition(":")[0], problem.hint) for problem in found] == [
        ("must be one of `path`, `query`, `header`, `cookie`", "did you mean `query`?"),
        ("unknown header parameter `Units`", "declare it: `parameters: {Units: {in: header}}`"),
        ("unknown path parameter `units`", "it is declared with `in: query`: write {query.units}"),
    ]


def _problems(tmp_path: Path, text: str) -> list[Problem]:
    file = tmp_path / "gateway.yaml"
    file.write_text(text, encoding="utf-8")
    draft = read(file, {})
    compile_document(draft.document, draft.problems, endpoint_paths=draft.endpoint_paths, broken=draft.broken)
    return draft.problems.errors
