"""The page of the benchmarks' history says what the entries hold."""

import history
import pytest


def entry(date, commit, calibration, **seconds):
    return {
        "date": date, "commit": commit, "changed": commit == "bbb", "calibration": calibration, "seconds": seconds,
        "machine": {"cpu": "cpu X", "cores": 2, "python": "3.11.7"}, "versions": {"numpy": "2.4.6"},
    }  # fmt: skip


def cells(page, name):
    (row,) = [line for line in page.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in row.strip("|").split("|")][1:]


def test_a_machine_that_is_twice_as_slow_shows_no_change():
    page = history.page(
        [entry("2026-01-02 10:00", "aaa", 0.1, scan=0.5), entry("2026-01-03 10:00", "bbb", 0.2, scan=1.0)]
    )
    assert cells(page, "`scan`") == ["5", "5 (+0%)"]
    assert cells(page, "benchmark") == ["2026-01-02 `aaa`", "2026-01-03 `bbb`*"]
    assert cells(page, "calibration") == ["100.0 ms", "200.0 ms"]


def test_entries_are_in_the_order_of_time_and_benchmarks_come_and_go():
    newer, older = entry("2026-01-03 10:00", "b", 0.1, new=0.3), entry("2026-01-02 10:00", "a", 0.1, old=0.1)
    page = history.page([newer, older])
    assert cells(page, "`new`") == ["-", "3"]
    assert cells(page, "`old`") == ["1", "-"]


def test_a_slower_commit_shows_by_how_much():
    page = history.page(
        [entry("2026-01-02 10:00", "a", 0.1, scan=0.10), entry("2026-01-03 10:00", "b", 0.1, scan=0.13)]
    )
    assert cells(page, "`scan`") == ["1", "1.3 (+30%)"]


def test_only_medians_are_kept():
    result = {"benchmarks": [{"name": "test_scan", "stats": {"median": 0.5, "mean": 0.7}}]}
    assert history.medians(result) == {"scan": 0.5}


def test_the_fixed_work_takes_time():
    assert history.calibrate(rounds=1) > 0


def test_the_page_is_that_of_the_entries():
    assert history.load(), "make bench-history"
    assert history.PAGE.read_text() == history.page(history.load()), "run python benchmarks/history.py --page"


@pytest.mark.parametrize("one", history.load(), ids=lambda one: one["commit"])
def test_an_entry_is_small_and_whole(one):
    assert set(one) == {"date", "commit", "changed", "machine", "versions", "calibration", "seconds"}
    assert all(seconds > 0 for seconds in one["seconds"].values())
