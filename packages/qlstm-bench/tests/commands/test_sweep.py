"""``qlstm-bench sweep`` on the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from qlstm_bench.cli import main
from qlstm_bench.report import collect
from qlstm_bench.sweep.presets import preset_names


@pytest.fixture
def file(tiny: dict[str, Any], tmp_path: Path) -> str:
    grid = {"quantizer": ["none", "bwn"], "normalizer": ["layer"]}
    path = tmp_path / "grid.yaml"
    path.write_text(
        yaml.safe_dump({"title": "two runs", "settings": {**tiny, "task": "char-lm"}, "grid": grid})
    )
    return str(path)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], ["which sweep?", "--list"]),
        (["hou2019-char-pbt"], ["'hou2019-char-pbt'", "did you mean 'hou2019-char-ptb'", "digits"]),
        (["digits", "--scale", "papr"], ["'papr'", "did you mean 'paper'", "small"]),
        (["digits", "--workers", "2", "--scheduler", "tcp://a:1"], ["--workers", "--scheduler"]),
        (["digits", "--list"], ["--list", "'digits'", "--dry-run"]),
        (["digits", "--json"], ["--json goes with --list", "--format csv"]),
        (["digits", "--dry-run", "--log", "tensorbord"], ["log", "'tensorbord'"]),
        (["digits", "--workers", "0"], ["--workers", "equal to 1"]),
        (["digits", "--out", "grid.yaml"], ["--out", "not a folder that can be written to"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    file: str, words: list[str], named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("qlstm-bench: error: ")
    for name in named:
        assert name in line


def test_the_presets_are_listed_with_what_they_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == preset_names()
    small = [line for line in lines if line.startswith("  --scale small: about ")]
    assert len(small) == len(preset_names())


def test_a_dry_run_lists_the_runs_and_leaves_nothing(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.iterdir())
    assert main(["sweep", file, "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == ["two runs: 2 runs", "  none, layer", "  bwn, layer"]
    assert sorted(tmp_path.iterdir()) == before


def test_a_run_that_fails_is_reported_and_the_others_go_on(
    tiny: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {**tiny, "task": "char-lm", "steps": 2}
    grid = {"data": ["missing.txt", settings.pop("data")]}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump({"settings": settings, "grid": grid}))
    assert main(["sweep", "grid.yaml", "--workers", "1", "--out", "my runs"]) == 2
    said = capsys.readouterr()
    *lines, last = said.err.splitlines()
    reason = "data file 'missing.txt' does not exist: expected a text file in UTF-8"
    (failed,) = [line for line in lines if " failed: " in line]
    (ended,) = [line for line in lines if " bits per character in validation" in line]
    assert failed.startswith("[1/2] ")
    assert ended.startswith("[2/2] "), "after the failure"
    assert f"failed: {reason}" in failed
    assert f"qlstm-bench: error: 1 of 2 runs failed: none, none, data missing.txt: {reason}" in last
    records, problems = collect([tmp_path / "my runs"])
    assert [(record.result.dataset.name, record.result.status) for record in records] == [
        ("words.txt", "completed")
    ]
    assert problems == []
    assert "words.txt" in said.out  # the table of what has ended
    assert f"`qlstm-bench report '{tmp_path}/my runs'` makes" in said.out, "as a shell takes it"


def test_what_a_file_says_does_not_steer_the_terminal(
    tiny: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {**tiny, "task": "char-lm", "data": "a\x1b[2Jb"}
    text = {"title": "t\x1b]0;x\x07", "about": "a\x1b[31m", "settings": settings, "grid": {"layers": [1, 2]}}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(text))
    assert main(["sweep", "grid.yaml", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert r"t\x1b]0;x\x07: 2 runs" in said


def test_a_broken_configuration_of_dask_is_one_line(file: str, tmp_path: Path) -> None:
    (tmp_path / "dask.yaml").write_text("distributed: [")
    words = [sys.executable, "-m", "qlstm_bench", "sweep", file]
    result = subprocess.run(
        words, capture_output=True, text=True, env=os.environ | {"DASK_CONFIG": str(tmp_path / "dask.yaml")}
    )
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("qlstm-bench: error: Dask cannot be imported: A dask config file at")
    assert "dask.yaml" in line


def test_presets_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--list", "--json"]) == 0
    records = {record["name"]: record for record in json.loads(capsys.readouterr().out)}
    assert list(records) == preset_names()
    digits = records["digits"]
    assert set(digits) == {"name", "title", "source", "scales"}
    assert [(scale["name"], scale["minutes"]) for scale in digits["scales"]] == [
        ("small", 15),
        ("paper", None),
    ]
