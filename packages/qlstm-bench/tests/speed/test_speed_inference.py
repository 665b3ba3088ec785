"""``qlstm-bench speed inference``, at a size that takes no time."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from qlstm_bench.cli import main
from qlstm_bench.speed import peers
from qlstm_bench.speed.inference import FLOAT32, Scenario, compare_inference


@pytest.fixture(autouse=True)
def _no_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "onnx_runtime_missing", lambda: "onnx not installed (tested without)")


@pytest.mark.parametrize(
    "scenario",
    [Scenario(16, steps=4), Scenario(16, batch=2, steps=4, stepwise=True), Scenario(16, symbols=5, steps=4)],
    ids=lambda scenario: scenario.title,
)
def test_networks_and_peers_compute_the_same_and_are_compared(scenario: Scenario) -> None:
    shares: list[float] = []
    (rows,) = compare_inference(
        [scenario], quantizers=["bwn"], activation_bits=[8, 16], rounds=2, done=shares.append
    )
    by_name = {row.name: row for row in rows}
    assert set(by_name) == {FLOAT32, "torch int8", "bwn, 8-bit tables", "bwn, 16-bit tables"} | (
        {"torch.nn.LSTMCell"} if scenario.stepwise else set()
    )
    assert by_name[FLOAT32].ratios == {FLOAT32: 1.0}
    assert by_name[FLOAT32].error < 1e-6
    assert by_name["bwn, 16-bit tables"].error < 1e-3 < 0.1
    assert by_name["bwn, 16-bit tables"].error < by_name["bwn, 8-bit tables"].error < 0.1
    assert shares[-1] == pytest.approx(1.0)


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    list(compare_inference([Scenario(8, steps=2)], quantizers=["bwn"], activation_bits=[8], rounds=1))
    assert torch.get_num_threads() == before


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["speed", "inference", "--hidden", "8", "--steps", "3", "--rounds", "1", "--quantizer"]
    assert main([*words, "bwn", "--activation-bits", "8", "--csv", str(tmp_path / "runs.csv")]) == 0
    frame = pd.read_csv(tmp_path / "runs.csv")
    assert list(frame["network"]) == [FLOAT32, "torch int8", "bwn, 8-bit tables"]
    assert main([*words, "none"]) == 2
    assert "'none' with 8-bit tables cannot be packed: nothing to pack" in capsys.readouterr().err
    assert main([*words, "bwn", "--activation-bits", "9"]) == 2
    assert "9-bit tables cannot be packed" in capsys.readouterr().err
