"""The model of a run, from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from qlstm_bench import RunError, load_model
from qlstm_bench.training.run import train


def test_a_runs_model_has_the_figure_of_its_result(tiny: dict[str, Any]) -> None:
    outcome = train({**tiny, "quantizer": "bwn", "normalizer": "layer"}, Path("runs"))
    for given in (outcome.run, outcome.run.directory, str(outcome.run.directory / "model.safetensors")):
        model, task = load_model(given)
        assert not model.training
        assert task.dataset_sha256 == outcome.result.dataset.sha256
        with torch.no_grad():
            assert task.evaluate(model, "valid") == pytest.approx(outcome.result.figure("valid"), rel=1e-6)


def test_what_is_no_run_is_one_line(tiny: dict[str, Any]) -> None:
    with pytest.raises(RunError, match=r"nowhere: no such file: expected the model of a run"):
        load_model("nowhere")
    directory = train(tiny, Path("runs")).run.directory
    file = directory / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(RunError, match=r"model\.safetensors: altered"):
        load_model(directory)
    file.write_bytes(b"not at all")
    with pytest.raises(RunError, match=r"model\.safetensors: not the model of a run"):
        load_model(directory)
