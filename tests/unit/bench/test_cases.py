from pathlib import Path

import pytest

from bench import bodies, cases, growth
from bench.peers import DOCUMENT, krakend
from bench.upstream import Services
from tests.unit.bench.draws import Draws


@pytest.mark.parametrize(
    ("path", "size"), [("/user", 200), ("/orders", 2_200), ("/weather", 900), ("/parts/7", 1_100), ("/reports/2", 1_000_000)]
)
def test_bodies_have_about_the_size_stated_by_the_workload(path: str, size: int) -> None:
    assert len(bodies.encode(cases.documents()[path])) == pytest.approx(size, rel=0.15)


def test_every_workload_has_an_expected_answer() -> None:
    for workload in cases.WORKLOADS:
        answer = cases.expected(workload)
        assert list(answer) == [call.name for call in workload.calls]


def test_a_pick_keeps_only_its_keys() -> None:
    workload = next(workload for workload in cases.WORKLOADS if workload.key == "D")
    assert list(cases.expected(workload)["report"]) == ["batch", "summary"]


def test_flaky_answers_are_late_with_a_probability_of_one_percent() -> None:
    known = Services(Draws(0.0099, 0.01))
    assert known.delay_s(b"/flaky/user") == (cases.SLOW_S, b"/user")
    assert known.delay_s(b"/flaky/user") == (0.0, b"/user")
    assert known.flaky == 2


def test_the_gateway_document_offers_every_workload() -> None:
    text = Path(DOCUMENT).read_text()
    for workload in cases.WORKLOADS:
        if workload.method != "growth":
            assert f"  - path: {workload.path}\n" in text
            for call in workload.calls:
                assert f"      {call.name}: {{upstream: s{call.service}, path: " in text


def test_krakend_chain_refers_to_earlier_backends() -> None:
    services = tuple(f"http://127.0.0.1:{port}" for port in range(9_000, 9_010))
    chain = next(endpoint for endpoint in krakend.document(8_080, services)["endpoints"] if endpoint["endpoint"] == "/e")
    assert chain["extra_config"] == {"proxy": {"sequential": True}}
    assert [backend["url_pattern"] for backend in chain["backend"]] == [
        "/accounts/17",
        "/customers/{resp0_account.customer_id}",
        "/regions/{resp1_customer.region}",
    ]


def test_a_grown_document_has_the_requested_number_of_endpoints() -> None:
    assert growth.document(3).count("- path:") == 3
    assert growth.path_of(2) == "/h/2/users/17"
