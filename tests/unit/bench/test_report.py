import math
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from bench import report
from bench.cases import WORKLOADS
from bench.gauge import Usage
from bench.measure import Row, Section
from bench.server import Cores
from bench.targets import Target, targets
from bench.trial import Trial, middle, per_request_us, wrk_trial


def trial(cpu_us: float, **changes: object) -> Trial:
    base = Trial(
        requests_per_s=100.0,
        cpu_us=cpu_us,
        busy=1.0,
        robbed=0.0,
        p50_ms=1.0,
        p99_ms=2.0,
        p999_ms=3.0,
        peak_mib=50.0,
        errors={},
        sent=10,
        lag_ms=0.0,
    )
    return msgspec.structs.replace(base, **changes)


def section(key: str, **cpu_us: float) -> Section:
    workload = next(workload for workload in WORKLOADS if workload.key == key)
    rows = [Row(peer=peer, title=peer, figures=trial(value), spread=(value, value)) for peer, value in cpu_us.items()]
    return Section(workload=workload, clients=64, rows=rows)


def by_demand(found: list[Target], word: str) -> Target:
    return next(target for target in found if word in target.demand)


def test_the_middle_is_the_median_of_each_figure_and_the_sum_of_errors() -> None:
    found = middle([trial(30, peak_mib=60.0), trial(10, errors={"status": 1}), trial(20, errors={"status": 2, "lost": 1})])
    assert found.cpu_us == 20
    assert found.peak_mib == 60
    assert found.errors == {"status": 3, "lost": 1}
    assert found.sent == 30


def test_a_round_without_answers_is_ignored_by_the_median() -> None:
    assert middle([trial(math.nan), trial(10), trial(20)]).cpu_us == 15


def test_cpu_time_without_requests_is_nan() -> None:
    assert math.isnan(per_request_us(1.0, 0))
    assert per_request_us(0.5, 5_000) == pytest.approx(100)


def test_targets_compare_cpu_times_within_the_run() -> None:
    found = targets({"A": section("A", anabranch=150, textbook=6_000, node=150, floor=20, exchange=10)})
    assert by_demand(found, "textbook").value == pytest.approx(40)
    assert by_demand(found, "textbook").verdict == "met"
    assert by_demand(found, "node").verdict == "missed by 0.3 times (23%)"
    assert by_demand(found, "floor").value == pytest.approx(3)
    assert by_demand(found, "floor").verdict == "missed by 0.8 times (36%)"
    assert by_demand(found, "wrong").verdict == "met"


def test_a_target_without_its_peer_is_not_measured() -> None:
    assert by_demand(targets({"C": section("C", anabranch=150)}), "node").verdict == "not measured"


def test_targets_for_p999_and_further_calls_use_the_hedged_row() -> None:
    hedged = section("G", anabranch=100, hedged=110)
    hedged.rows[1] = replace(hedged.rows[1], extra_calls=0.06)
    found = targets({"G": hedged})
    assert by_demand(found, "p99.9").verdict == "met"
    assert by_demand(found, "further").verdict == "missed by 1% (20%)"


def test_growth_target_uses_the_largest_size_measured() -> None:
    found = targets({"H": section("H", h1=100, h100=100, h1000=120)})
    assert by_demand(found, "1,000 endpoints").value == pytest.approx(1.2)


def test_cells_show_the_multiple_of_anabranch() -> None:
    lines = report.table(section("A", anabranch=100, node=250))
    assert lines[1][2] == "100"
    assert lines[2][2] == "250 (2.5x)"


def test_only_the_text_between_the_markers_is_replaced() -> None:
    text = "before <!-- bench:A -->\nold\n<!-- /bench:A --> after <!-- bench:B --><!-- /bench:B -->"
    assert (
        report.replace_between(text, "A", "new")
        == "before <!-- bench:A -->\nnew\n<!-- /bench:A --> after <!-- bench:B --><!-- /bench:B -->"
    )
    with pytest.raises(ValueError, match="bench:C"):
        report.replace_between(text, "C", "new")


def test_a_partial_run_leaves_other_tables_unchanged(tmp_path: Path) -> None:
    names = [*(workload.key for workload in WORKLOADS), "machine", "targets"]
    file = tmp_path / "performance.md"
    file.write_text("\n".join(f"<!-- bench:{name} -->\nold {name}\n<!-- /bench:{name} -->" for name in names))
    sections = {"A": section("A", anabranch=100)}
    report.write_document(file, sections, targets(sections), {"date": "today"}, rounds=3, seconds=2)
    text = file.read_text()
    assert "| anabranch | 100 |" in text
    assert "old A" not in text
    assert "old B" in text


def test_the_real_document_has_every_marker() -> None:
    text = (Path(__file__).parents[3] / "docs" / "performance.md").read_text()
    for name in [*(workload.key for workload in WORKLOADS), "machine", "targets"]:
        assert report.replace_between(text, name, "") != text


def test_wrk_answers_of_the_wrong_length_are_errors() -> None:
    counted = {"requests": 10, "duration_us": 2e6, "bytes": 10 * 300, "connect": 0, "read": 0, "write": 0, "timeout": 0, "status": 1}
    counted |= {"p50": 1_000, "p99": 2_000, "p999": 3_000}
    usage = Usage(cpu_s=0.9, waited_s=0.2, peak_bytes=2**20)
    right = wrk_trial(counted, 200, usage)
    assert right.errors == {"status": 1}
    assert right.requests_per_s == pytest.approx(4.5)
    assert right.robbed == pytest.approx(0.1)
    assert right.cpu_us == pytest.approx(1e5)
    assert wrk_trial(counted, 400, usage).errors == {"status": 1, "length": 9}


def test_the_server_has_the_last_core_to_itself() -> None:
    cores = Cores.of({0, 1, 2, 3})
    assert cores.server == {3}
    assert cores.load == {0, 1, 2}
    assert Cores.of({5}).load == {5}
