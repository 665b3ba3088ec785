"""Ranks, ties and origins."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from made_runs import make_run
from scipy import stats

from qlstm_bench.compare.standings import Standings, ranks
from qlstm_bench.compare.suite import Contest
from qlstm_bench.report.records import collect

SEEDS = st.lists(st.integers(0, 40).map(lambda value: value / 4), min_size=2, max_size=4)


@given(st.lists(SEEDS, min_size=1, max_size=6))
def test_ranks_count_the_methods_that_a_welch_test_finds_better(figures: list[list[float]]) -> None:
    def worse(one: list[float], other: list[float]) -> bool:
        if np.ptp(one) == 0 and np.ptp(other) == 0:
            return one[0] > other[0]
        sides = [(np.mean(side), np.std(side, ddof=1), len(side)) for side in (one, other)]
        test = stats.ttest_ind_from_stats(*sides[0], *sides[1], equal_var=False, alternative="greater")
        level = test.pvalue
        assume(abs(level - 0.05) > 1e-9)
        return bool(level < 0.05)

    wanted = [1 + sum(worse(one, other) for other in figures) for one in figures]
    assert ranks(figures) == wanted
    assert min(wanted) == 1


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_with_one_seed_any_difference_counts(figures: list[int]) -> None:
    wanted = stats.rankdata(figures, method="min").astype(int).tolist()
    assert ranks([[float(figure)] for figure in figures]) == wanted


def test_methods_that_seeds_cannot_tell_apart_share_a_rank() -> None:
    assert ranks([[1.0, 1.1, 1.2], [1.05, 1.15, 1.25], [2.0, 2.1, 2.2]]) == [1, 1, 3]


@pytest.fixture
def standings(tmp_path: Path) -> Standings:
    """Three methods: twn, named, with two seeds; bwn, shipped in part; lab, which learnt nothing."""
    shipped = set()
    for seed, figure in enumerate((2.0, 2.1)):
        make_run(tmp_path, "twn", "layer", seed=seed, metrics={"test_bpc": figure}, git_commit="c" * 40)
    for seed, figure in enumerate((1.0, 1.1)):
        run = make_run(tmp_path, "bwn", "layer", seed=seed, metrics={"test_bpc": figure}, git_commit="d" * 40)
        if seed:
            shipped.add(run.directory)
    for seed in (0, 1):
        make_run(tmp_path, "lab", "layer", seed=seed, metrics={"valid_bpc": 4.5, "test_bpc": 0.5})
    records, problems = collect([tmp_path])
    assert problems == []
    configs = tuple(record.run.config for record in records)
    named = {record.run.directory for record in records if record.result.quantizer == "twn"}
    return Standings(Contest("quantizer", "toy", (), configs, 2, ()), records, named, shipped)


def test_the_best_comes_first_and_what_learnt_nothing_counts_as_without_its_input(
    standings: Standings,
) -> None:
    assert [(row.method, row.rank, row.named) for row in standings.rows] == [
        ("bwn", 1, False), ("twn", 2, True), ("lab", 3, False),
    ]  # fmt: skip


def test_each_line_says_where_its_runs_come_from(standings: Standings) -> None:
    c, d = "c" * 9, "d" * 9
    assert [row.origin for row in standings.rows] == [
        f"1 trained here ({d}), 1 shipped ({d})", f"trained here ({c})", "trained here (no commit)",
    ]  # fmt: skip
    assert standings.shown()["origin"].tolist() == [row.origin for row in standings.rows]


def test_tables_are_in_the_order_of_the_ranks(standings: Standings) -> None:
    shown = standings.shown()
    assert shown[["rank", "quantizer", "test"]].to_numpy().tolist() == [
        ["1", "bwn", "1.050 ±0.071"], ["2", "twn", "2.050 ±0.071"], ["3", "lab", "0.500 ±0.000"],
    ]  # fmt: skip
    frame = standings.frame()
    assert frame[["kind", "suite_task", "method", "named", "rank"]].to_numpy().tolist() == [
        ["quantizer", "toy", "bwn", False, 1], ["quantizer", "toy", "twn", True, 2],
        ["quantizer", "toy", "lab", False, 3],
    ]  # fmt: skip
    assert frame["test_mean"].tolist() == pytest.approx([1.05, 2.05, 0.5])
    assert not [name for name in frame if name.startswith("published")]


def test_a_method_whose_runs_all_failed_has_no_rank(tmp_path: Path) -> None:
    make_run(tmp_path, "twn", "layer", status="failed", error="no memory", metrics={})
    make_run(tmp_path, "bwn", "layer", metrics={"test_bpc": 2.0})
    records, _ = collect([tmp_path])
    contest = Contest("quantizer", "toy", (), tuple(record.run.config for record in records), 0, ())
    rows = Standings(contest, records, (), ()).rows
    assert [(row.method, row.rank, row.place) for row in rows] == [("bwn", 1, "1"), ("twn", None, "–")]
    assert math.isnan(Standings(contest, records, (), ()).frame()["rank"].iloc[1])
