"""Problems: their positions, what they show, and what they must not show."""

import pytest

from anabranch.config.node import Entry, Located, Mapping, Scalar, Sequence
from anabranch.config.problems import Positions, Problems, did_you_mean, path_text
from anabranch.config.secrets import Secrets
from anabranch.errors import ConfigError


def _document() -> Mapping:
    item = Mapping(Located("f", 3, 5), {"x": Entry(Located("f", 3, 5), Scalar(Located("f", 3, 8), 1))})
    items = Sequence(Located("f", 3, 3), [item])
    return Mapping(Located("f", 1, 1), {"list": Entry(Located("f", 2, 1), items)})


def test_positions_distinguish_the_value_from_the_key() -> None:
    positions = Positions(_document())
    assert positions.locate(("list", 0, "x")) == ("f", 3, 8)
    assert positions.locate(("list", 0, "x"), at_key=True) == ("f", 3, 5)
    assert positions.locate(("list",), at_key=True) == ("f", 2, 1)


def test_a_missing_path_is_located_at_the_nearest_enclosing_key() -> None:
    positions = Positions(_document())
    assert positions.locate(("list", 7, "x")) == ("f", 2, 1)
    assert positions.locate(("nothing",)) == ("f", 1, 1)
    assert positions.has(("list", 0))
    assert not positions.has(("list", 1))


def test_without_a_document_every_problem_is_located_at_its_start() -> None:
    problems = Problems()
    problems.add(("a", 0), "is odd")
    assert str(problems.errors[0]) == "document:1:1: a[0]: is odd"


def test_problems_are_raised_together_in_the_order_of_the_document() -> None:
    problems = Problems(Positions(_document()))
    problems.add(("list", 0, "x"), "later")
    problems.add(("list",), "earlier", at_key=True)
    problems.add((), "only a warning", is_warning=True)
    with pytest.raises(ConfigError) as caught:
        problems.raise_if_any()
    assert [problem.message for problem in caught.value.problems] == ["earlier", "later"]
    assert [str(problem) for problem in problems.warnings] == ["f:1:1: warning: document: only a warning"]


def test_warnings_alone_raise_nothing() -> None:
    problems = Problems()
    problems.add((), "only a warning", is_warning=True)
    problems.raise_if_any()


def test_a_problem_reported_twice_counts_once() -> None:
    problems = Problems(Positions(_document()))
    problems.add(("list", 0, "x"), "is odd")
    problems.add(("list", 0, "x"), "is odd")
    problems.add(("list", 0, "x"), "is something else")
    assert len(problems.errors) == 2


def test_a_value_is_shown_as_shortened_json() -> None:
    problems = Problems()
    problems.add(("a",), "is odd", value={"k": [True, "ü", object]})
    problems.add(("b",), "is odd", value="x" * 100)
    assert problems.errors[0].value == '{"k": [true, "ü", "type"]}'
    assert problems.errors[1].value == '"' + "x" * 56 + "..."


def test_a_problem_is_one_line_without_control_characters() -> None:
    problems = Problems()
    problems.add(("a\n\x1b[2J",), "the key `a\n\x1b[2J\ud800` is odd", value="\u2028")
    assert str(problems.errors[0]).isprintable()


def test_a_secret_is_shown_neither_as_a_value_nor_in_a_message() -> None:
    problems = Problems(None, Secrets({("a", "b")}, {"hunter22", 'qu"ote\n'}))
    problems.add(("a", "b"), "`hunter22` is unknown", value="hunter22", hint="did you mean `hunter22`?")
    problems.add(("a",), "is odd", value={"b": "hunter22"})
    problems.add(("a", "b", 0), "is odd", value="hunter22"[:3])
    problems.add(("c",), "is odd", value=['x hunter22 qu"ote\n'])
    text = "\n".join(map(str, problems.errors))
    assert "hunter" not in text
    assert "hun" not in text
    assert "ote" not in text
    assert "`***` is unknown; did you mean `***`?" in text


def test_yaml_keywords_and_short_values_are_not_masked_in_messages() -> None:
    assert Secrets(set(), {"true", "80", "hunter22"}).redact("must be true or false, 80, hunter22") == "must be true or false, 80, ***"


def test_the_repr_of_a_secret_hides_its_value() -> None:
    assert repr(Secrets({("a",)}, {"hunter22"})) == "Secrets(1 paths)"


@pytest.mark.parametrize(
    ("word", "choices", "hint"),
    [
        ("fligts", ["weather", "flights"], "did you mean `flights`?"),
        ("TIMEOUT", ["timeout"], "did you mean `timeout`?"),
        ("timeout_s", ["timeout"], "did you mean `timeout`?"),
        ("tiemout", ["timeout", "time"], "did you mean `timeout`?"),
        ("when", ["hidden", "headers", "upstream"], ""),
        ("group", ["drop", "rename"], ""),
        ("auth", ["path", "query"], ""),
        ("param", ["upstream"], ""),
        ("names", ["rename", "name"], "did you mean `name`?"),
        ("zzz", ["flights"], ""),
        ("flights", [], ""),
        ("flights", ["flights"], ""),
    ],
)
def test_a_hint_suggests_similar_names(word: str, choices: list[str], hint: str) -> None:
    assert did_you_mean(word, choices) == hint


def test_paths_are_formatted_readably() -> None:
    assert path_text(("endpoints", 0, "steps", "weather", "timeout")) == "endpoints[0].steps.weather.timeout"
    assert path_text(("default", "a b", "")) == 'default["a b"][""]'
    assert path_text(()) == "document"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("auth", "a", "api_key", "keys"), {"anna": "tulip-77"}),
        (("auth", "a", "basic", "users"), "anna:tulip-77"),
        (("auth", "a", "basic"), {"users": "anna:tulip-77"}),
        (("auth", "a", "jwt", "secret"), ["tulip-77"]),
        (("store", "redis", "password"), ["tulip-77"]),
    ],
)
def test_what_proves_an_identity_is_not_shown(path: tuple[str, ...], value: object) -> None:
    problems = Problems()
    problems.add(path, "is odd", value=value)
    assert "tulip" not in str(problems.errors[0])


def test_names_that_sound_confidential_hide_nothing() -> None:
    problems = Problems()
    problems.add(("auth", "users", "jwt", "issuer"), "is odd", value="nonsense")
    assert "nonsense" in str(problems.errors[0])
