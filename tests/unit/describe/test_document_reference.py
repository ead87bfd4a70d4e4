"""The reference and the JSON Schema match the models, and the file in docs/ is up to date."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from anabranch.config.model import Document
from anabranch.config.parse import parse
from anabranch.config.problems import Problems
from anabranch.config.substitute import fill
from anabranch.describe.document_catalogue import keys, kinds, sections
from anabranch.describe.document_reference import reference
from anabranch.describe.document_schema import document_schema
from anabranch.testing.plugin import SpecItem
from anabranch.testing.specs.document import document_text
from anabranch.testing.specs.model import Case
from anabranch.testing.specs.read import read_spec_file
from tests.support.documents import sound
from tests.support.example import EXAMPLE

_DOCS = Path(__file__).parents[3] / "docs" / "reference.md"


def test_the_reference_in_docs_is_up_to_date() -> None:
    assert _DOCS.read_text(encoding="utf-8") == reference(), "run `make docs`"


def test_the_reference_is_written_by_the_module(tmp_path: Path) -> None:
    target = tmp_path / "reference.md"
    subprocess.run([sys.executable, "-m", "anabranch.describe.document_reference", str(target)], check=True, cwd=_DOCS.parents[1])
    assert target.read_text(encoding="utf-8") == reference()


def test_every_key_has_a_description() -> None:
    assert [f"{model.__name__}.{key.name}" for model in sections() for key in keys(model) if not key.meaning] == []
    assert [model.__name__ for model in sections() if not model.__doc__] == []


def test_the_reference_shows_defaults_in_the_units_of_the_document() -> None:
    text = reference()
    assert "| `connect_timeout` | duration | `1s` |" in text
    assert "| `max_response` | size | `10MiB` |" in text
    assert "| `failure_rate` | ratio | `50%` |" in text
    assert "| `in` | `path`, `query`, `header` or `cookie` | required |" in text
    assert "| `attempts` | whole number, 1 to 10 | `3` |" in text


def test_the_schema_is_a_valid_schema_and_json() -> None:
    schema = document_schema()
    jsonschema_rs.meta.validate(schema)
    assert json.loads(json.dumps(schema)) == schema
    assert schema["$schema"].endswith("2020-12/schema")


def test_each_call_returns_a_new_schema() -> None:
    document_schema()["$defs"].clear()
    assert document_schema()["$defs"]


def test_every_default_in_the_schema_is_valid_for_its_key() -> None:
    schema = document_schema()
    for name, section in {**schema["$defs"], "": schema}.items():
        for key, value in section.get("properties", {}).items():
            if "default" in value and name != "Substitution":
                validator = jsonschema_rs.validator_for({**value, "$defs": schema["$defs"]})
                assert validator.is_valid(value["default"]), (name, key)


def test_the_schema_has_no_titles_derived_from_python_names() -> None:
    properties: dict[str, Any] = document_schema()["$defs"]["Upstream"]["properties"]
    assert all("title" not in value for value in properties.values())
    assert properties["timeout"]["description"].startswith("Maximum duration of one attempt.")
    assert properties["connect_timeout"]["default"] == "1s"


@pytest.fixture(scope="module")
def validator() -> Any:
    """Of documents. It takes long to make."""
    return jsonschema_rs.validator_for(document_schema())


def _as_written(text: str) -> Any:
    node = parse(text.replace("${", "$${"), "f", Problems().add_at)
    assert node is not None
    return fill(node, {}, Problems()).data


def test_the_schema_accepts_the_example_with_its_substitutions(validator: Any) -> None:
    assert [str(error) for error in validator.iter_errors(_as_written(EXAMPLE))] == []


@pytest.mark.parametrize(
    "path",
    [
        ("version",), ("upstreams", "flights", "url"), ("upstreams", "flights", "timeout"), ("upstreams", "flights", "transport"),
        ("upstreams", "flights", "concurrency", "limit"), ("upstreams", "flights", "retry", "budget"), ("upstreams", "flights", "max_response"),
        ("upstreams", "flights", "retry", "on", 1), ("endpoints", 0, "steps", "flight", "required"), ("endpoints", 0, "method"),
    ],
)  # fmt: skip
def test_the_schema_accepts_substitutions_and_rejects_other_text(path: tuple[str | int, ...], validator: Any) -> None:
    document = _as_written(EXAMPLE)
    for value, is_valid in (("${SOMETHING:-x}", True), ("nonsense", False), (None, False)):
        changed = copy.deepcopy(document)
        place = changed
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = value
        assert validator.is_valid(changed) is is_valid, value


@pytest.mark.parametrize(
    "text",
    ["version: 1\njournl: 1", "version: 1\nupstreams: {1x: {url: http://a}}", "{}", "version: 1\nendpoints: [{path: /a, steps: {}}]"],
)
def test_the_schema_rejects_what_the_models_reject(text: str, validator: Any) -> None:
    assert not validator.is_valid(_as_written(text))


def test_the_schema_names_every_key_of_every_model() -> None:
    schema = document_schema()
    for model in sections():
        section = schema if model is Document else schema["$defs"][model.__name__]
        if kinds(model):
            assert section["anyOf"] == [{"$ref": f"#/$defs/{kind.__name__}"} for kind in kinds(model).values()]
            assert all({key.name for key in keys(kind)} >= {key.name for key in keys(model)} for kind in kinds(model).values())
        else:
            assert list(section["properties"]) == [key.name for key in keys(model)]


def test_every_kind_of_step_has_a_section_with_the_keys_that_only_it_has() -> None:
    text = reference()
    common, call, compute = (text.split(f"\n## {name}\n")[1].split("\n## ")[0] for name in ("Step", "CallStep", "ComputeStep"))
    assert "With `upstream` it is a [CallStep](#callstep). With `compute` it is a [ComputeStep](#computestep)." in common
    assert "| `when` | string |" in common
    assert "| `upstream` | string | required |" in call
    assert "| `compute` | string | required |" in compute
    for section in (call, compute):
        assert "It can also have every key of a [Step](#step)." in section
        assert "| `when` |" not in section
    assert "| `compute` |" not in call
    assert "| `steps` | mapping of name to [Step](#step) | required |" in text


_SPECS = sorted((Path(__file__).parents[2] / "specs").glob("*.yaml"))


def _documents(path: Path, collected: list[pytest.Item]) -> list[tuple[Case, str]]:
    """The documents of a spec file that are not refused, as they are written. `collected`: the tests of this run; reading a spec file again takes long."""
    specs = [item.spec for item in collected if isinstance(item, SpecItem) and item.path == path] or read_spec_file(path)
    cases = [spec.case for spec in specs if all(problem.is_warning for problem in spec.case.expect_problems or ())]
    return [(case, document_text(case, {"nobody": 1}, Path())) for case in cases]


@pytest.mark.parametrize("path", _SPECS, ids=lambda path: path.stem)
def test_the_schema_accepts_every_document_of_the_specs(path: Path, validator: Any, request: pytest.FixtureRequest) -> None:
    for case, text in _documents(path, request.session.items):
        assert [f"{case.name}: {error}" for error in validator.iter_errors(_as_written(text))] == []


@pytest.mark.parametrize(
    ("step", "is_valid"),
    [
        ({"upstream": "a", "path": "/a", "when": "{query.x} == 1", "pick": ["x"], "stale_if_error": "1m"}, True),
        ({"compute": "m:f", "input": {"x": "{query.x}"}, "executor": "process", "default": None}, True),
        ({"upstream": "a", "path": "/a", "pth": "/a"}, False),
        ({"compute": "m:f", "imput": {}}, False),
        ({"upstream": "a", "path": "/a", "input": {}}, False),
        ({"compute": "m:f", "query": {}}, False),
        ({"upstream": "a"}, False),
        ({"upstream": "a", "compute": "m:f", "path": "/a"}, False),
        ({"path": "/a"}, False),
        ({}, False),
        ({"upstream": "a", "path": "/a", "when": True}, False),
        (None, False),
    ],
)
def test_the_schema_knows_the_keys_of_each_kind_of_step(step: Any, is_valid: bool, validator: Any) -> None:
    document = {"version": 1, "endpoints": [{"path": "/x", "steps": {"s": step}}]}
    assert validator.is_valid(document) is is_valid


def test_the_editor_comment_is_in_the_reference(tmp_path: Path) -> None:
    comment = "# yaml-language-server: $schema=gateway.schema.json"
    assert comment in reference()
    file = tmp_path / "gateway.yaml"
    file.write_text(f"{comment}\nversion: 1\n")
    sound(file, {})
