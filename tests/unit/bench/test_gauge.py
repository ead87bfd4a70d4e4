import os

from bench.gauge import Gauge, parse_stat, tree


def test_cpu_time_is_parsed_after_a_process_name_with_brackets_and_spaces() -> None:
    text = "42 (a) R (b) S 7 42 42 0 -1 4194560 1 0 0 0 100 50 20 10 20 0 1 0 1 1 1"
    parent, seconds = parse_stat(text)
    assert parent == 7
    assert seconds == 180 / os.sysconf("SC_CLK_TCK")


def test_an_ended_process_has_no_tree() -> None:
    assert tree(2**22 + 1) == {}


def test_own_process_reports_memory_and_no_negative_cpu_time() -> None:
    gauge = Gauge(os.getpid())
    gauge.begin()
    usage = gauge.end()
    assert usage.cpu_s >= 0
    assert usage.peak_bytes > 2**20
