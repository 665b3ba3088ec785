"""The README's example runs as it stands, and no command and no dataset is missing from it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from qlstm_bench.cli import app
from qlstm_bench.data import DATASETS

README = Path(__file__).parents[1] / "README.md"


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(
        r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    exec(code, {"__name__": "readme"})
    status, bits, growth, directory = capsys.readouterr().out.splitlines()
    assert status == "completed"
    assert float(bits) < 1
    assert float(growth) > 0
    assert Path(directory).is_dir()
    assert directory.startswith("runs/char-lm-bwn-layer-")


def first_cells(heading: str) -> list[str]:
    """Return the code in the first column of the table that has this heading."""
    table = README.read_text(encoding="utf-8").split(heading)[1].split("\n\n")[0]
    return re.findall(r"^\| `([^`]*)` \|", table, re.MULTILINE)


def test_every_command_is_named() -> None:
    commands = []
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        commands += [f"{name} {one}" for one in getattr(command, "commands", None) or ()] or [name]
    named = [
        re.sub(r"^qlstm-bench | [A-Z]+…?$", "", text) for text in first_cells("| command | what it does |")
    ]
    assert sorted(named) == sorted(commands)


def test_every_dataset_is_named_with_its_kind_and_figures() -> None:
    assert first_cells("| name | what | split |") == list(DATASETS)
    lines = {
        line.split("`")[1]: line
        for line in README.read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    }
    for name, dataset in DATASETS.items():
        assert dataset.kind in lines[name]
        for figure in re.findall(r"\d[\d,.×/]*\d", dataset.summary.partition("; 1.8 GB")[0]):
            assert figure in lines[name]
