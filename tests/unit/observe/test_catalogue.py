"""The catalogue of metrics, the documentation and the exposed metrics agree."""

from anabranch.observe import catalogue
from anabranch.observe.metrics import Metrics
from tests.support.paths import ROOT


def test_documentation_lists_every_metric() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    assert catalogue.rendered(page) == page, "docs/metrics.md is stale: run `make docs`"


def test_every_exposed_metric_is_in_the_catalogue_with_its_type() -> None:
    exposed = {family.name: family.type for family in Metrics().collect()}
    for name, kind in exposed.items():
        assert name in catalogue.ALL
        assert kind == catalogue.ALL[name].kind


def test_everything_that_is_counted_here_is_exposed_from_the_start() -> None:
    exposed = {family.name for family in Metrics().collect()}
    assert {name for name in catalogue.declared([catalogue]) if name != catalogue.SPANS.name} <= exposed


def test_names_follow_the_prometheus_conventions() -> None:
    for metric in catalogue.ALL.values():
        assert metric.name.startswith("anabranch_")
        assert not metric.name.endswith(("_total", "_info", "_bucket", "_count", "_sum"))
        assert metric.kind != "histogram" or metric.name.endswith("_seconds")
        assert metric.meaning.endswith((".", "/."))
        assert not set(metric.labels) & {"le", "quantile", "job", "instance", "path", "method"}
