"""``qlstm-bench tasks`` and ``qlstm-bench datasets``: what there is, where, and what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qlstm_bench.cli import main
from qlstm_bench.data import DATASETS
from qlstm_bench.tasks import tasks_of
from qlstm_core.plugins import registry


def test_every_task_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in tasks_of(registry).names():
        assert any(line.startswith(f"{name} ") for line in lines)


def test_a_task_shows_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", "mnist:permuted=true"]) == 0
    text = capsys.readouterr().out
    for part in (
        "mnist:permuted=true: ", "accuracy, % correct; higher is better", "options: permuted=false",
        "hidden: 100", "data: mnist", "Hou et al. 2019",
    ):  # fmt: skip
        assert part in text
    assert main(["tasks", "word-ml"]) == 2
    assert "did you mean 'word-lm'" in capsys.readouterr().err


def test_tasks_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [record["name"] for record in records] == tasks_of(registry).names()
    assert {frozenset(record) for record in records} == {frozenset({"name", "summary", "references"})}
    assert main(["tasks", "mnist:permuted=true", "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["name"] == "mnist:permuted=true"
    assert (record["metric"], record["higher_is_better"]) == ("accuracy", True)
    assert record["options"]["permuted"] is False
    assert record["settings"]["hidden"] == 100


def test_datasets_say_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two of three files in the data folder, one in the cache: complete; the others are missing."""
    folder, cache = tmp_path / "data", tmp_path / "cache"
    (folder / "ptb").mkdir(parents=True)
    (cache / "ptb").mkdir(parents=True)
    (folder / "ptb" / "ptb.train.txt").touch()
    (folder / "ptb.valid.txt").touch()
    (cache / "ptb" / "ptb.test.txt").touch()
    (folder / "ptb" / "ptb.char.train.txt").touch()
    monkeypatch.setenv("QLSTM_DATA", str(folder))
    assert main(["datasets", "--json"]) == 0
    records = {record["name"]: record for record in json.loads(capsys.readouterr().out)}
    assert list(records) == list(DATASETS)
    assert records["ptb-word"]["state"] == "here"
    assert records["ptb-word"]["found"] == [
        str(folder / "ptb" / "ptb.train.txt"),
        str(folder / "ptb.valid.txt"),
        str(cache / "ptb" / "ptb.test.txt"),
    ]
    assert records["ptb-char"]["state"] == "incomplete"
    assert [file["path"] for file in records["ptb-char"]["missing"]] == [
        "ptb/ptb.char.valid.txt", "ptb/ptb.char.test.txt"
    ]  # fmt: skip
    assert records["mnist"]["state"] == "to download"
    assert records["digits"]["state"] == records["stdlib-char"]["state"] == "built in"
    assert main(["datasets"]) == 0
    text = capsys.readouterr().out
    assert f"  found    {cache / 'ptb' / 'ptb.test.txt'}\n" in text
    assert "  missing  ptb/ptb.char.valid.txt, 0.8 MB from https://" in text
    assert "set QLSTM_DATA to it" in text


def test_a_data_folder_that_is_none_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QLSTM_DATA", "/no/such/folder")
    assert main(["datasets"]) == 2
    assert "QLSTM_DATA is '/no/such/folder', which is not a folder" in capsys.readouterr().err
