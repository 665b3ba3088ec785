"""The page of a comparison: what its tables say, and that nothing on it is taken for an instruction."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from made_runs import make_run

from qlstm_bench.compare.conformance import Conformance, check_methods
from qlstm_bench.compare.durations import Duration
from qlstm_bench.compare.page import Page, print_page, write_page
from qlstm_bench.compare.standings import Standings
from qlstm_bench.compare.suite import Contest, read_suite
from qlstm_bench.config import RunConfig
from qlstm_bench.report.records import collect
from qlstm_core.testing import normalizer_checks, quantizer_checks, runner
from qlstm_core.testing.runner import CheckResult

FIGURES = {"one": {"twn": 2.0, "bwn": 1.0, "lab": 3.0}, "two": {"twn": 1.0, "bwn": 2.0}}
"""Of each method on each task: lab is not trained on the second."""


def results(*statuses: str) -> tuple[CheckResult, ...]:
    return tuple(CheckResult(f"check_{n}", "twn", status, "<i>") for n, status in enumerate(statuses))  # type: ignore[arg-type]


@pytest.fixture
def page(tmp_path: Path) -> Page:
    standings = []
    for task, figures in FIGURES.items():
        for method, figure in figures.items():
            growth = {"twn": 0.5, "bwn": 0.25 if task == "one" else 8.0, "lab": math.nan}[method]
            make_run(
                tmp_path / task, method, "layer",
                metrics={"test_bpc": figure, "gradient_growth": growth},
                storage_bytes=2048 if task == "one" else 1024,
            )  # fmt: skip
        records, problems = collect([tmp_path / task])
        assert problems == []
        named = {record.run.directory for record in records if record.result.quantizer == "twn"}
        configs = tuple(record.run.config for record in records)
        standings.append(Standings(Contest("quantizer", task, (), configs, 1, ()), records, named, ()))
    costs = {
        "torch.nn.LSTM": Duration(10.0, 1.0, 30.0, 1.0), "twn": Duration(20.0, 2.0, 6.0, 5.0),
        "bwn": Duration(25.0, 2.5, remark="not packed: <script>"), "lab": Duration(),
    }  # fmt: skip
    checks = [Conformance("quantizer", "twn", results("passed", "failed", "skipped", "passed"))]
    return Page(
        read_suite("quick"), standings, {"quantizer": costs}, checks, "a CPU", "", ["three is left out"]
    )


def test_the_overview_has_a_line_for_each_method_the_best_mean_rank_first(page: Page) -> None:
    table = page.overview("quantizer")
    assert table[["method", "one", "two", "mean rank", "KB", "growth"]].to_numpy().tolist() == [
        ["bwn", "1: 1.000", "2: 2.000", "1.5", "2/1", "8.0e+00"],
        ["twn *", "2: 2.000", "1: 1.000", "1.5", "2/1", "5.0e-01"],
        ["lab", "3: 3.000", "–", "3.0", "2", "–"],
    ]  # fmt: skip
    assert table[["training ms", "× torch", "packed µs", "× faster", "checks"]].to_numpy().tolist() == [
        ["25", "2.5", "–", "–", "–"], ["20", "2", "6", "5", "2/3"], ["–", "–", "–", "–", "–"],
    ]  # fmt: skip


def test_the_terminal_has_the_tables_and_what_was_left_out(
    page: Page, capsys: pytest.CaptureFixture[str]
) -> None:
    print_page(page)
    said = capsys.readouterr().out
    assert "quantizers: rank and bits per character in test" in said
    assert "training ms" not in said, "which is on the page"
    for line in ("three is left out", "bwn: not packed: <script>", "twn: check_1 fails: <i>"):
        assert line in said.splitlines()


def test_the_page_stands_by_itself_and_shows_text_as_text(page: Page, tmp_path: Path) -> None:
    html, csv = write_page(page, tmp_path)
    text = " ".join(html.read_text().split())
    assert text.count("<svg") == 2
    assert "<script>" not in text
    assert "bwn: not packed: &lt;script&gt;" in text
    assert "twn: check_1 fails: &lt;i&gt;" in text
    assert '<tr class="named"><td class="words">twn *</td>' in text
    assert "there is one seed here, which has no spread" in text
    assert text.count(">quantizer</text>") == 2, "one legend a figure"
    assert ">normaliser</text>" not in text
    lines = csv.read_text().splitlines()
    assert len(lines) == 1 + 5
    assert lines[0].startswith("kind,suite_task,method,named,rank,task,dataset,")
    assert lines[0].endswith(",origin,training_ms,training_ratio,packed_us,packed_ratio,checks")


def test_conformance_counts_the_checks_of_the_kind_that_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    quantizer = (quantizer_checks.check_declarations, quantizer_checks.check_rows_independent)
    monkeypatch.setattr(runner, "QUANTIZER_CHECKS", quantizer)
    monkeypatch.setattr(runner, "NORMALIZER_CHECKS", (normalizer_checks.check_declarations,))
    twn, none = check_methods({"quantizer": ["twn"], "normalizer": ["none"]})
    assert (twn.summary, len(twn.results)) == ("2/2", 3), "rows are not independent, which does not apply"
    assert (none.summary, len(none.results)) == ("2/2", 2), "those of the quantizer of that name are not its"
    (broken,) = check_methods({"quantizer": ["alternating:bits=99"]})
    assert broken.summary == "–"
    assert "bits" in broken.trouble


def test_a_cell_with_options_is_known_by_its_settings() -> None:
    settings = {"data": "toy", "hidden": 8, "batch": 2, "steps": 1, "lr": 0.1, "clip": 1.0}
    found = Conformance("cell", "f-lstm:rank=3", ())
    assert found.is_of(RunConfig.build({**settings, "cell": "f-lstm", "rank": 3}))
    assert not found.is_of(RunConfig.build({**settings, "cell": "f-lstm", "rank": 4}))
