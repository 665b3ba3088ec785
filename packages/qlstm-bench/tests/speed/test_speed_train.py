"""``qlstm-bench speed train``, at a size that takes no time."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from qlstm_bench.cli import main
from qlstm_bench.errors import BenchError
from qlstm_bench.speed.training import PEER, Shape, compare_training_steps


def test_each_layer_is_measured_beside_torch_on_its_path() -> None:
    shares: list[float] = []
    (rows,) = compare_training_steps(
        [Shape(3, 4, 5, 6)], [1], normalizers=["none", "layer"], rounds=2, done=shares.append
    )
    assert {row.name: row.route for row in rows} == {
        PEER: "",
        "none": "torch",
        "layer": "fused",
        "none, loop": "loop",
        "layer, loop": "loop",
    }
    peer = next(row for row in rows if row.name == PEER)
    assert peer.ratio == peer.ratio_of_best == 1.0
    assert all(len(row.timing.seconds) == 2 and row.timing.best > 0 for row in rows)
    assert shares == pytest.approx([n / 10 for n in range(1, 11)])


def test_packed_products_stand_beside_exact_ones() -> None:
    (rows,) = compare_training_steps(
        [Shape(3, 4, 5, 6)], [1], normalizers=["none"], quantizer="bwn", products=["exact", "packed16"],
        loops=False, rounds=1,
    )  # fmt: skip
    assert {row.name: row.route for row in rows} == {PEER: "", "none": "torch", "none, packed16": "fused"}


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    list(compare_training_steps([Shape(2, 2, 2, 2)], [2], normalizers=[], loops=False, rounds=1))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "1,2,x,4", "0,1,1,1"])
def test_a_shape_that_is_none(text: str) -> None:
    with pytest.raises(BenchError, match="STEPS,BATCH,INPUT,HIDDEN"):
        Shape.parse(text)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--shape", "3,4,5,6", "--threads", "1", "--rounds", "1"]
    words = ["speed", "train", *sizes, "--normalizer", "rms", "--no-loops", "--csv"]
    assert main([*words, str(tmp_path / "steps.csv")]) == 0
    frame = pd.read_csv(tmp_path / "steps.csv")
    assert list(frame["layer"]) == [PEER, "rms"]
    assert frame["ratio"][0] == 1.0
    shown = capsys.readouterr().out
    assert "steps,batch,input,hidden 3,4,5,6; threads 1" in shown
    assert main([*words, str(tmp_path / "missing" / "steps.csv")]) == 2
    assert "missing/steps.csv' cannot be written" in capsys.readouterr().err
    assert main([*words[:-1], "--quantizer", "bwn", "--products", "packed"]) == 2
    assert "did you mean 'packed16'" in capsys.readouterr().err
    assert main(["speed", "train", "--normalizer", "lair"]) == 2
    assert "did you mean 'layer'" in capsys.readouterr().err
