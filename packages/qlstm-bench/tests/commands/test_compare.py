"""``qlstm-bench compare`` on the command line, at a size that shows nothing but that it works."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from qlstm_bench.cli import main
from qlstm_bench.compare import durations
from qlstm_bench.compare.durations import Duration
from qlstm_bench.config import RunConfig
from qlstm_bench.speed.timing import interleaved
from qlstm_bench.speed.training import PEER
from qlstm_bench.training.run import Outcome, train
from qlstm_core.testing import quantizer_checks, runner

Trained = list[tuple[str, int, bool]]

MEASURE = durations.measure


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few conformance checks, and no timings."""
    checks = (quantizer_checks.check_declarations, quantizer_checks.check_rows_independent)
    monkeypatch.setattr(runner, "QUANTIZER_CHECKS", checks)

    def none(methods: Iterable[str], *arguments: Any, **keywords: Any) -> dict[str, Duration]:
        return {name: Duration() for name in (PEER, *methods)}

    monkeypatch.setattr(durations, "measure", none)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timings of one call each."""
    monkeypatch.setattr(durations, "measure", MEASURE)
    monkeypatch.setattr(durations, "interleaved", partial(interleaved, seconds=0.0))


@pytest.fixture
def suite(tiny: dict[str, Any], tmp_path: Path) -> Path:
    """A suite of one task with two rivals of a quantizer and one seed."""
    settings = {**tiny, "task": "char-lm", "steps": 2, "eval_every": 1}
    rivals = {"quantizer": {"settings": {"normalizer": "layer"}, "grid": {"quantizer": ["none", "bwn"]}}}
    document = {
        "version": 1, "title": "small <b>", "minutes": 1, "seeds": 1, "speed": "4,2,3,4",
        "tasks": {"words": {"settings": settings}}, "rivals": rivals,
    }  # fmt: skip
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Trained:
    """Trains in this process, not in workers; what was asked for, and whether it was there before."""
    done: Trained = []

    def run_watched(
        configs: Sequence[RunConfig], labels: Sequence[str], out: Path, workers: Any, *, force: bool = False
    ) -> tuple[list[Outcome], list[str]]:
        outcomes = []
        for config in configs:
            outcomes.append(train(config.model_dump(), out, force=force))
            done.append((config.quantizer, config.seed, outcomes[-1].reused))
        return outcomes, []

    monkeypatch.setattr("qlstm_bench.sweep.progress.run_watched", run_watched)
    return done


def compare(suite: Path, *words: str) -> int:
    return main(["compare", "--suite", str(suite), "--out", "mine", *words])


def rows() -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(Path("mine/comparison.csv").read_text())))


def change(suite: Path, **changes: Any) -> None:
    suite.write_text(yaml.safe_dump(yaml.safe_load(suite.read_text()) | changes))


def test_rivals_are_shipped_and_what_is_named_is_trained(
    suite: Path, trained: Trained, timed: None, capsys: pytest.CaptureFixture[str]
) -> None:
    change(suite, seeds=2)
    assert compare(suite, "--update-reference") == 0
    rivals = [(name, seed, False) for name in ("none", "bwn") for seed in (0, 1)]
    assert trained == rivals
    assert (suite.parent / "small.reference.json").exists()

    trained.clear()
    capsys.readouterr()
    assert compare(suite, "twn") == 0
    assert trained == [("twn", 0, False), ("twn", 1, False)]
    said = capsys.readouterr().out
    assert "6 runs, 4 of them shipped" in said
    found = {row["method"]: row for row in rows()}
    assert {name: row["origin"].partition(" (")[0] for name, row in found.items()} == {
        "twn": "trained here", "none": "shipped", "bwn": "shipped",
    }  # fmt: skip
    assert {name: row["named"] for name, row in found.items()} == {
        "twn": "True", "none": "False", "bwn": "False",
    }  # fmt: skip
    assert found["twn"]["checks"] == "2/2"  # with that of the text form; twn is not per row
    assert found["none"]["checks"] == "–"
    for row in found.values():
        assert float(row["training_ms"]) > 0
        assert float(row["rank"]) in (1, 2, 3)
        assert row["runs"] == "2"
    assert float(found["twn"]["packed_us"]) > 0
    assert found["none"]["packed_us"] == "", "full precision is not packed"
    (heading,) = [line for line in said.splitlines() if line.startswith("method ")]
    assert heading.split()[:2] == ["method", "words"]
    assert "\ntwn * " in said
    page = Path("mine/comparison.html").read_text()
    assert "small &lt;b&gt;" in page
    assert "<b>small" not in page
    assert page.count("<svg") == 1
    assert "machine of the shipped runs" in page

    trained.clear()
    assert compare(suite, "twn") == 0
    assert trained == [("twn", 0, True), ("twn", 1, True)], "done before"


@pytest.mark.parametrize("reason", ["version", "settings", "data", "asked"])
def test_rivals_are_trained_where_shipped_runs_do_not_agree(
    suite: Path, text_file: Path, trained: Trained, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(suite, "--update-reference") == 0
    trained.clear()
    if reason == "version":
        change(suite, version=2)
    elif reason == "settings":
        tasks = yaml.safe_load(suite.read_text())["tasks"]
        tasks["words"]["settings"]["hidden"] = 9
        change(suite, tasks=tasks)
    elif reason == "data":
        text_file.write_text(text_file.read_text()[::-1])
    capsys.readouterr()
    assert compare(suite, "twn", *(["--no-reference"] if reason == "asked" else [])) == 0
    assert trained == [(name, 0, False) for name in ("twn", "none", "bwn")]
    said = {
        "version": "the shipped runs are of version 1 of suite",
        "settings": "words: 2 runs of rivals trained here: no run with their settings is shipped",
        "data": "words: 2 runs of rivals trained here: their data is not that of the shipped runs",
        "asked": "3 runs, 0 of them shipped",
    }
    assert said[reason] in capsys.readouterr().out
    assert {row["origin"].partition(" (")[0] for row in rows()} == {"trained here"}
    assert "machine of the shipped runs" not in Path("mine/comparison.html").read_text()


def test_a_rival_that_is_named_is_trained_here(suite: Path, trained: Trained) -> None:
    assert compare(suite, "--update-reference") == 0
    trained.clear()
    assert compare(suite, "bwn") == 0
    assert trained == [("bwn", 0, False)]
    assert [row["named"] for row in rows() if row["method"] == "bwn"] == ["True"]


def test_after_an_interruption_the_same_command_goes_on(
    suite: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train

    def interrupted(settings: dict[str, Any], out: Path, force: bool) -> Outcome:
        if len(trained) == 2:
            raise KeyboardInterrupt
        return whole(settings, out, force=force)

    with monkeypatch.context() as once:
        once.setattr(sys.modules[__name__], "train", interrupted)
        assert compare(suite, "twn", "--no-reference") == 130
    assert "interrupted; the same command goes on" in capsys.readouterr().err
    assert not Path("mine/comparison.html").exists()
    trained.clear()
    assert compare(suite, "twn", "--no-reference") == 0
    assert [reused for *_, reused in trained] == [True, True, False]


def test_shipped_runs_are_written_whole_or_not_at_all(
    suite: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(suite, "--update-reference") == 0
    before = (suite.parent / "small.reference.json").read_text()

    def failing(*arguments: Any, force: bool = False) -> tuple[list[Outcome], list[str]]:
        return [], ["words: bwn, layer: no memory"]

    monkeypatch.setattr("qlstm_bench.sweep.progress.run_watched", failing)
    capsys.readouterr()
    assert compare(suite, "--update-reference", "--force") == 2
    assert "the shipped runs stay as they are: words: bwn, layer: no memory" in capsys.readouterr().err
    assert (suite.parent / "small.reference.json").read_text() == before


def test_a_method_that_fails_is_named_and_the_page_has_the_others(
    suite: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(suite, "--update-reference") == 0

    def failing(*arguments: Any, force: bool = False) -> tuple[list[Outcome], list[str]]:
        return [], ["words: twn, layer: ValueError: <i>"]

    monkeypatch.setattr("qlstm_bench.sweep.progress.run_watched", failing)
    assert compare(suite, "twn") == 2
    assert "1 of 3 runs failed: words: twn, layer: ValueError: <i>" in capsys.readouterr().err
    assert [row["method"] for row in rows()] in (["none", "bwn"], ["bwn", "none"])
    assert "failed: words: twn, layer: ValueError: &lt;i&gt;" in Path("mine/comparison.html").read_text()


def test_a_task_without_its_data_is_left_out_and_says_how_to_get_it(
    suite: Path, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = yaml.safe_load(suite.read_text())["tasks"]
    more = {"treebank": {"settings": {"task": "char-lm", "data": "ptb-char", "hidden": 8, "steps": 2}}}
    more["lost"] = {"settings": {"task": "char-lm", "data": "lost.txt", "hidden": 8, "steps": 2}}
    change(suite, tasks=more | tasks)
    assert compare(suite, "twn") == 0
    said = capsys.readouterr().out
    assert "treebank is left out: ptb-char is not at hand (3 files, " in said
    assert "`qlstm-bench run char-lm --data ptb-char --steps 1` downloads it" in said
    assert "lost is left out: there is no file 'lost.txt'" in said
    assert {row["suite_task"] for row in rows()} == {"words"}
    assert "ptb-char is not at hand" in Path("mine/comparison.html").read_text()
    assert compare(suite, "--update-reference") == 2
    error = capsys.readouterr().err
    assert "all tasks are needed for shipped runs: lost is left out" in error
    assert "treebank is left out" in error
    change(suite, tasks=more)
    assert compare(suite, "twn") == 2
    assert "ptb-char is not at hand" in capsys.readouterr().err


def test_a_dry_run_lists_the_runs_and_leaves_nothing(
    suite: Path, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(suite, "--update-reference") == 0
    capsys.readouterr()
    trained.clear()
    before = sorted(suite.parent.rglob("*"))
    assert compare(suite, "twn", "--dry-run") == 0
    assert trained == []
    first, *runs = capsys.readouterr().out.splitlines()
    assert first.endswith("3 runs, 2 of them shipped; a quantizer takes about 1 minute of one core")
    assert runs == [
        "  words: twn, layer", "  words: none, layer: shipped", "  words: bwn, layer: shipped",
    ]  # fmt: skip
    assert sorted(suite.parent.rglob("*")) == before


def test_runs_go_to_worker_processes_as_those_of_a_sweep(
    suite: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(suite, "twn", "--workers", "1") == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines if line.startswith("[")] == [
        "[1/3] words", "[2/3] words", "[3/3] words",
    ]  # fmt: skip
    assert sorted(row["method"] for row in rows()) == ["bwn", "none", "twn"]
    page = Path("mine/comparison.html").read_text()
    assert "there is one seed here, which has no spread" in " ".join(page.split())


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], ["compare what?", "`qlstm plugins`"]),
        (["twm"], ["'twm'", "did you mean 'twn'", "installed: "]),
        (["none"], ["'none'", "--kind quantizer or --kind normalizer"]),
        (["twn", "--kind", "cel"], ["--kind", "'cel'", "quantizer"]),
        (["twn", "--suite", "quik"], ["'quik'", "did you mean 'quick'", "standard"]),
        (["twn", "--update-reference"], ["--update-reference", "'twn'"]),
        (["twn", "--workers", "0"], ["--workers"]),
        (["twn", "--workers", "2", "--scheduler", "tcp://a:1"], ["--workers", "--scheduler"]),
        (["twn", "--out", "words.txt"], ["--out", "not a folder that can be written to"]),
        (["gru"], ["has no rivals of a cell", "quantizer"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    suite: Path, words: list[str], named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(suite, *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("qlstm-bench: error: ")
    for name in named:
        assert name in line


def test_what_a_suite_says_does_not_steer_the_terminal(
    suite: Path, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    (task,) = yaml.safe_load(suite.read_text())["tasks"].values()
    change(suite, title="t\x1b]0;x\x07", tasks={"a\x1b[2J": task})
    assert compare(suite, "twn") == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert r"t\x1b]0;x\x07 (version 1)" in said
