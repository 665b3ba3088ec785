"""The planted mistakes fit the tree: each can be planted, and the tests that must notice it exist.

Whether they do notice is what ``tox run -e planted`` tries.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
AT_LEAST = 400
"""Mistakes in all; a list that shrinks below is a mistake, too."""


@pytest.fixture(scope="module")
def planted() -> Any:
    spec = importlib.util.spec_from_file_location("planted", ROOT / "tools" / "planted.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["planted"] = module
    spec.loader.exec_module(module)
    return module


def test_each_mistake_can_be_planted_and_its_tests_exist(planted: Any) -> None:
    assert list(planted.problems(planted.load())) == []


def test_there_are_many_over_all_packages(planted: Any) -> None:
    mistakes = planted.load()
    assert len(mistakes) >= AT_LEAST
    packages = {mistake.file.split("/")[1] for mistake in mistakes}
    assert {"qlstm-core", "qlstm-quant", "qlstm-norm"} <= packages


def test_what_is_wrong_with_an_entry_is_said(planted: Any, tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("a = 1\na = 1\n")
    (tmp_path / "test_code.py").write_text("def test_a(): ...\n")
    mistakes = [
        planted.Mistake("x", "twice", "code.py", "a = 1", "a = 2", ("test_code.py::test_a[1]",)),
        planted.Mistake("x", "same", "code.py", "a = 1\na", "a = 1\na", ("test_code.py::test_b",)),
        planted.Mistake("x", "same", "gone.py", "a", "b", ("test_code.py::test_a",)),
    ]
    assert list(planted.problems(mistakes, tmp_path)) == [
        "same: 2 mistakes have this name",
        "twice: old occurs 2 times in code.py, it must once",
        "same: new is old",
        "same: there is no test test_code.py::test_b",
        "same: there is no file gone.py",
    ]


def test_mistakes_are_chosen_by_area_name_and_file(planted: Any) -> None:
    mistakes = planted.load()
    assert {mistake.area for mistake in planted.select(mistakes, ["quant"])} == {"quant"}
    assert {mistake.file.rsplit("/")[-1] for mistake in planted.select(mistakes, ["cell.py"])} == {"cell.py"}
    assert len(planted.select(mistakes, ["gru-update-*", "norm"])) > len(planted.select(mistakes, ["norm"]))
    with pytest.raises(ValueError, match=r"nearest: cell\.py"):
        planted.select(mistakes, ["cel.py"])
