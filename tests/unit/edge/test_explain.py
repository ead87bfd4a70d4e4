from typing import Any

import orjson

from anabranch.edge.explain import explain, is_requested
from anabranch.errors import DependencyFailed, UpstreamTimeout
from tests.support.edge_plans import endpoint, outcome, result

STEPS: dict[str, dict[str, Any]] = {
    "flight": {"upstream": "flights", "path": "/f", "required": True},
    "weather": {"upstream": "weather", "path": "/w"},
    "plane": {"upstream": "planes", "path": "/p", "hidden": True},
    "airline": {"upstream": "airlines", "path": "/a"},
}


def test_explain_shows_the_plan_with_the_outcome_of_each_step() -> None:
    plan = endpoint(name="briefing", steps=STEPS, needs={"weather": (0,), "plane": (0,)}, timeout_s=1.5)
    weather = outcome("weather", elapsed_ms=300, failure=UpstreamTimeout("no answer within 300 ms"), attempts=2)
    weather.started_s, weather.queue_s, weather.notes = 0.01, 0.0005, ["retried after a timeout"]
    plane = outcome("plane", elapsed_ms=0, failure=DependencyFailed("flight failed"), attempts=0)
    flight = outcome("flight", elapsed_ms=9.8765)
    flight.status = 200
    shown = orjson.loads(explain(plan, result(flight, weather, plane), 0.3214))
    assert {key: value for key, value in shown.items() if key != "steps"} == {
        "endpoint": "briefing",
        "method": "GET",
        "path": "/briefing",
        "timeout_ms": 1500.0,
        "status": 200,
        "complete": False,
        "media_type": "application/json",
        "compression": None,
        "cache_control": None,
        "elapsed_ms": 321.4,
    }
    by_name = {step["step"]: step for step in shown["steps"]}
    assert list(by_name) == ["flight", "weather", "plane", "airline"]
    assert by_name["flight"] == {
        "step": "flight",
        "upstream": "flights",
        "mode": "splice",
        "needs": [],
        "required": True,
        "hidden": False,
        "timeout_ms": None,
        "state": "ok",
        "started_ms": 0.0,
        "elapsed_ms": 9.877,
        "queue_ms": 0.0,
        "attempts": 1,
        "status": 200,
        "failure": None,
        "notes": [],
    }
    assert by_name["weather"]["needs"] == ["flight"]
    assert by_name["weather"]["state"] == "failed"
    assert by_name["weather"]["failure"] == {"code": "timeout", "detail": "no answer within 300 ms"}
    assert by_name["weather"]["notes"] == ["retried after a timeout"]
    assert (by_name["weather"]["started_ms"], by_name["weather"]["queue_ms"]) == (10.0, 0.5)
    assert by_name["plane"]["state"] == "skipped"
    assert by_name["airline"]["state"] == "not_run"


def test_explain_tells_what_a_condition_left_out_from_what_was_not_reached() -> None:
    plan = endpoint(steps=STEPS)
    made = result(outcome("flight"))
    made.left_out = {"weather": "left_out", "plane": "not_needed"}
    shown = {step["step"]: step for step in orjson.loads(explain(plan, made, 0.1))["steps"]}
    assert {name: step["state"] for name, step in shown.items()} == {
        "flight": "ok",
        "weather": "left_out",
        "plane": "not_needed",
        "airline": "not_run",
    }
    assert "elapsed_ms" not in shown["weather"]


def test_only_the_exact_parameter_enables_explain() -> None:
    assert is_requested(b"_explain=true")
    assert is_requested(b"a=1&_explain=true")
    for query in (b"", b"_explain=false", b"x_explain=true", b"_explain=true1", b"_explain"):
        assert not is_requested(query)
