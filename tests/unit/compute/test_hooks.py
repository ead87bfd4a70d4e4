"""Checks of a hook before anything runs."""

import sys
import types

import pytest

from anabranch.compute.hooks import check_hook
from anabranch.plan.model import PoolKind

MODULE = "tests.support.hooks"


@pytest.mark.parametrize(
    ("hook", "arguments", "fault", "hint"),
    [
        ("add", "a", "a hook is written as module:function", ""),
        (f"{MODULE}:", "", "a hook is written as module:function", ""),
        ("tests.support.nothing:add", "", "there is no module tests.support.nothing", "working directory"),
        (f"{MODULE}:ad", "", f"the module {MODULE} has no ad", "did you mean `add`?"),
        (f"{MODULE}:Statistics.median", "", f"the module {MODULE} has no Statistics.median", ""),
        (f"{MODULE}:NUMBER", "", f"{MODULE}:NUMBER cannot be a hook: it is not a function", ""),
        (f"{MODULE}:add", "a c", "the function has no argument `c`", "it takes `a`, `b`"),
        (f"{MODULE}:mean", "flihgts", "the function has no argument `flihgts`", "did you mean `flights`?"),
        (f"{MODULE}:pid", "a", "the function has no argument `a`", "it takes none"),
        (f"{MODULE}:add", "b", "the function needs the argument `a`", "add it: `input: {a: ...}`"),
        (f"{MODULE}:positional", "a", "the function's argument `a` cannot be passed by name", "remove the `/`"),
        (f"{MODULE}:generator", "", "a hook must return its result, but this function is a generator", "return a list"),
    ],
)
def test_a_fault_is_a_sentence(hook: str, arguments: str, fault: str, hint: str) -> None:
    found = check_hook(hook, tuple(arguments.split()), "thread")
    assert found.fault == fault
    assert hint in found.hint
    assert found.is_about_input == ("argument" in fault and "by name" not in fault)


@pytest.mark.parametrize(
    ("hook", "arguments"), [("add", "a"), ("add", "a b"), ("anything", "x y z"), ("later", "value"), ("echo", "value")]
)
def test_a_fitting_hook_has_no_fault(hook: str, arguments: str) -> None:
    assert check_hook(f"{MODULE}:{hook}", tuple(arguments.split()), "thread").fault is None


@pytest.mark.parametrize("kind", ["process", "dask"])
def test_async_functions_stay_on_the_loop(kind: PoolKind) -> None:
    fault = check_hook(f"{MODULE}:later", ("value",), kind).fault
    assert fault is not None
    assert "event loop" in fault


def test_a_process_hook_needs_a_module_that_other_processes_can_import(monkeypatch: pytest.MonkeyPatch) -> None:
    made = types.ModuleType("made_up")
    made.twice = lambda n: 2 * n  # type: ignore[attr-defined]
    made.__spec__ = None
    monkeypatch.setitem(sys.modules, "made_up", made)
    assert check_hook("made_up:twice", ("n",), "thread").fault is None
    fault = check_hook("made_up:twice", ("n",), "process").fault
    assert fault == "executor: process cannot import made_up in another process"


def test_the_result_annotation_becomes_a_schema() -> None:
    assert check_hook(f"{MODULE}:add", ("a",), "thread").result_schema == {"type": "integer"}
    schema = check_hook(f"{MODULE}:worst", ("flights",), "thread").result_schema
    assert schema is not None
    assert schema["anyOf"][0] == {"$ref": "#/$defs/Flight"}
    assert check_hook(f"{MODULE}:echo", ("value",), "thread").result_schema is None
    assert check_hook(f"{MODULE}:text_of_json", ("text",), "thread").result_schema is None


def test_a_module_that_fails_at_import_is_a_fault(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    with open(f"{tmp_path}/broken_hooks.py", "w") as file:  # noqa: PTH123
        file.write("raise RuntimeError('no database')\n")
    fault = check_hook("broken_hooks:it", (), "thread").fault
    assert fault == "the module broken_hooks cannot be imported: RuntimeError: no database"
