"""Shipped runs: which stand for a run here, and which do not."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from made_runs import make_run

from qlstm_bench.compare.reference import Reuse, read_reference, settings_hash, write_reference
from qlstm_bench.compare.suite import Suite, SuiteFile
from qlstm_bench.config import ConfigError, RunConfig
from qlstm_bench.report.records import collect
from qlstm_bench.training.result import Result

SHA = "ab" * 32


def suite(folder: Path, version: int = 1) -> Suite:
    file = SuiteFile.model_validate(
        {
            "version": version, "title": "small", "minutes": 1, "speed": "4,2,3,4",
            "tasks": {"toy": {}}, "rivals": {"quantizer": {"grid": {"quantizer": ["none"]}}},
        }
    )  # fmt: skip
    return Suite("small", file, folder / "small.reference.json")


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """Settings of one of three runs that are shipped."""
    for seed in (0, 1):
        growth = math.inf if seed else 0.25
        make_run(
            tmp_path, "bwn", "layer", seed=seed, metrics={"gradient_growth": growth, "clipped_share": 0.5}
        )
    make_run(tmp_path, "twn", "layer", status="diverged", diverged_at=3)
    records, problems = collect([tmp_path])
    assert problems == []
    write_reference(suite(tmp_path), records)
    return records[0].run.config


def reuse(folder: Path, version: int = 1) -> Reuse:
    return Reuse(suite(folder, version), read_reference(suite(folder)))


def test_a_shipped_run_comes_back_as_it_was(tmp_path: Path, config: RunConfig) -> None:
    found = reuse(tmp_path).find("toy", config, SHA)
    assert isinstance(found, Result)
    assert found.metrics == {
        "baseline_bpc": 4.0, "valid_bpc": 2.5, "test_bpc": 2.625, "gradient_growth": 0.25,
    }  # fmt: skip
    assert (found.storage_bytes, found.wall_s, found.seed, found.gradient_norms) == (2048, 1.0, 0, [])
    other = reuse(tmp_path).find("toy", config.model_copy(update={"seed": 1}), SHA)
    assert isinstance(other, Result)
    assert other.metrics["gradient_growth"] == math.inf
    twn = reuse(tmp_path).find("toy", config.model_copy(update={"quantizer": "twn"}), SHA)
    assert isinstance(twn, Result)
    assert twn.fate == "diverged at step 3"


@pytest.mark.parametrize(
    ("changes", "sha256", "reason"),
    [
        ({}, "cd" * 32, "their data is not that of the shipped runs"),
        ({"seed": 2}, SHA, "no run with their settings is shipped"),
        ({"quantizer": "none"}, SHA, "no run with their settings is shipped"),
        ({"steps": 21}, SHA, "no run with their settings is shipped"),
        ({"dropout": 0.5}, SHA, "no run with their settings is shipped"),
    ],
)
def test_a_run_of_other_data_seed_or_settings_is_not_stood_for(
    tmp_path: Path, config: RunConfig, changes: dict[str, Any], sha256: str, reason: str
) -> None:
    shipped = reuse(tmp_path)
    assert shipped.find("toy", config.model_copy(update=changes), sha256) is None
    (line,) = shipped.remarks
    assert line.startswith(f"toy: 1 run of rivals trained here: {reason}")


def test_what_does_not_decide_a_result_does_not_matter(tmp_path: Path, config: RunConfig) -> None:
    other = config.model_copy(update={"data": "/elsewhere/toy.txt", "log_every": 3, "log": ["tensorboard"]})
    assert reuse(tmp_path).find("toy", other, SHA) is not None


def test_runs_of_another_version_of_the_suite_are_not_used(tmp_path: Path, config: RunConfig) -> None:
    shipped = reuse(tmp_path, version=2)
    assert shipped.find("toy", config, SHA) is None
    assert shipped.remarks == [
        "the shipped runs are of version 1 of suite small, which is version 2 here: rivals are trained here"
    ]


def test_a_setting_that_came_later_must_have_its_default(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    deciding = RunConfig.deciding
    covers = [name for name in config.deciding("") if name not in ("seed", "sha256", "dropout")]

    def before(self: RunConfig, sha256: str) -> dict[str, Any]:
        return {name: value for name, value in deciding(self, sha256).items() if name != "dropout"}

    with monkeypatch.context() as older:
        older.setattr(RunConfig, "deciding", before)
        shipped = settings_hash(config, covers)
    assert settings_hash(config, covers) == shipped
    assert settings_hash(config.model_copy(update={"dropout": 0.5}), covers) != shipped
    assert settings_hash(config, [*covers, "gone"]) != shipped


def test_each_run_is_a_line_of_the_file(tmp_path: Path, config: RunConfig) -> None:
    text = suite(tmp_path).reference.read_text()
    assert len(text.splitlines()) == 3 + 2
    document = json.loads(text)
    assert document["version"] == 1
    assert len({run["settings"] for run in document["runs"]}) == 2, "one for the two seeds"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "Invalid JSON"),
        ('{"version": 1, "machine": "", "covers": [], "runs": [{"settings": "x"}]}', "runs.0.settings"),
        ('{"version": 1, "machine": "", "covers": []}', "runs: Field required"),
        ("\0" * 300_000, "larger than 256 KiB"),
    ],
)  # fmt: skip
def test_a_file_of_something_else_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    suite(tmp_path).reference.write_text(text)
    with pytest.raises(ConfigError) as raised:
        read_reference(suite(tmp_path))
    assert "small.reference.json" in str(raised.value)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_without_a_file_there_are_no_shipped_runs_and_nothing_is_said(
    tmp_path: Path, config: RunConfig
) -> None:
    suite(tmp_path).reference.unlink()
    shipped = reuse(tmp_path)
    assert shipped.find("toy", config, SHA) is None
    assert shipped.remarks == []
