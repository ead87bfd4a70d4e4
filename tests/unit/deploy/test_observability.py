"""The alert rules and the dashboard: their queries parse and use only existing metrics and labels."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
from ruamel.yaml import YAML

from anabranch.observe import catalogue

DEPLOY = Path(__file__).parents[3] / "deploy"
RULES = YAML(typ="safe").load((DEPLOY / "prometheus" / "rules.yaml").read_text("utf-8"))
DASHBOARD = json.loads((DEPLOY / "grafana" / "anabranch.json").read_text("utf-8"))
# Labels that Prometheus adds to every target.
TARGET = {"job", "instance"}


def known() -> dict[str, set[str]]:
    """Every series that can be queried, with its labels."""
    found: dict[str, set[str]] = {"up": TARGET, **dict.fromkeys(catalogue.PROCESS, TARGET)}
    for metric in catalogue.ALL.values():
        labels = {*metric.labels, *TARGET}
        if metric.kind == "histogram":
            found |= {f"{metric.name}_bucket": {*labels, "le"}, f"{metric.name}_sum": labels, f"{metric.name}_count": labels}
        else:
            found[metric.sample] = labels
    for rule in rules("record"):
        # The labels that its outermost aggregation keeps.
        found[rule["record"]] = {*re.findall(r"\w+", re.findall(r"by \(([^)]*)\)", rule["expr"])[0])} - {"le"}
    return found


def rules(kind: str) -> list[dict[str, Any]]:
    return [rule for group in RULES["groups"] for rule in group["rules"] if kind in rule]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    """The position of each query, and the query."""
    for rule in (*rules("alert"), *rules("record")):
        yield rule.get("alert") or rule["record"], rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for annotation in DASHBOARD["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]


def selectors(query: str) -> list[promql.VectorSelector]:
    """Parses `query`, Grafana's variables filled in. Raises ValueError when it is not a query."""
    found: list[promql.VectorSelector] = []

    def visit(expression: promql.Expr) -> bool:
        if isinstance(expression, promql.VectorSelector):
            found.append(expression)
        return True

    promql.walk(promql.parse(re.sub(r"\$\w+", "1m", query)), visit)
    return found


@pytest.mark.parametrize(("place", "query"), list(queries()))
def test_query_parses_and_uses_existing_metrics_and_labels(place: str, query: str) -> None:
    series = known()
    asked = selectors(query)
    assert asked, "it asks for nothing"
    for selector in asked:
        assert selector.name in series, f"{place}: there is no metric {selector.name}"
        labels = {matcher.name for matcher in selector.matchers.matchers}
        assert labels <= series[selector.name], f"{place}: {selector.name} has no label {labels - series[selector.name]}"


@pytest.mark.parametrize("rule", rules("alert"), ids=lambda rule: rule["alert"])
def test_alert_has_a_severity_and_a_description(rule: dict[str, Any]) -> None:
    assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"\d+m", rule["for"])
    assert rule["labels"] == {"severity": rule["labels"]["severity"]}
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description"}
    used = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
    kept = {label for selector in selectors(rule["expr"]) for label in known()[selector.name or ""]}
    grouped = re.findall(r"by \(([^)]*)\)", rule["expr"])
    assert used <= ({*re.findall(r"\w+", grouped[0])} if grouped else kept)
    page = (DEPLOY.parent / "docs" / "observability.md").read_text("utf-8")
    assert rule["alert"] in page, "docs/observability.md does not tell what to do about it"


def test_names_of_rules_are_unique() -> None:
    names = [rule.get("alert") or rule["record"] for rule in (*rules("alert"), *rules("record"))]
    assert len(names) == len(set(names))


def test_dashboard_can_be_imported_by_grafana() -> None:
    assert {"uid", "title", "schemaVersion", "panels", "templating", "time"} <= set(DASHBOARD)
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD))) <= variables | {"__rate_interval", "__all"}
    for panel in panels():
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["targets"]


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_variables_use_existing_metrics() -> None:
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            name, label = re.fullmatch(r"label_values\((\w+)(?:\{[^}]*\})?, (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
            assert label in known()[name]
