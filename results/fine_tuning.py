"""Training on from a float model with 1- and 2-bit weights: bits per character after 0, 50 and 200 steps.

    python results/fine_tuning.py runs/char-lm-none-none-… fine-tuning.csv

The recurrent layer of a trained character model gets a quantizer and layer normalisation in three ways: from
its float weights with the normaliser fitted to 16 batches, from its float weights alone, and newly drawn, as
from scratch (then the output layer is new, too). Adam with learning rate 0.002, gradients clipped to norm 5.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from qlstm_bench import load_model
from qlstm_core import LSTM, QuantizedLayer

BATCHES = 16
STEPS = (0, 50, 200)


def main(run: Path, out: Path) -> None:
    """Train each start, and write a table."""
    trained, task = load_model(run)
    float_layer = trained.recurrent.to_float()
    float_valid = _evaluate(task, trained)
    print(f"float32: {float_valid:.4f}", flush=True)
    rows = []
    for quantizer in ("bwn", "twn"):
        for start in ("float, fitted", "float", "scratch"):
            torch.manual_seed(0)
            model: Any = task.model(quantizer, "layer")
            if start != "scratch":
                data = [_inputs(task, step) for step in range(BATCHES)] if "fitted" in start else None
                model.recurrent = LSTM.from_float(
                    float_layer, quantizer=quantizer, normalizer="layer", tokens=True, data=data
                )
                model.output.load_state_dict(trained.output.state_dict())
            for step, valid in _train(task, model):
                print(f"{quantizer}, {start}: {step} steps, {valid:.4f}", flush=True)
                rows.append({"quantizer": quantizer, "start": start, "step": step, "valid": valid})
    rows.append({"quantizer": "none", "start": "float", "step": 0, "valid": float_valid})
    pd.DataFrame(rows).to_csv(out, index=False, float_format="%.6g")


def _inputs(task: Any, step: int) -> torch.Tensor:
    characters: torch.Tensor = task.batch(step)[0]
    return characters


@torch.no_grad()
def _evaluate(task: Any, model: nn.Module) -> float:
    model.eval()
    valid: float = task.evaluate(model, "valid")
    return valid


def _train(task: Any, model: nn.Module) -> Any:
    """Yield steps and bits per character in validation."""
    yield 0, _evaluate(task, model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
    state = None
    for step in range(1, max(STEPS) + 1):
        model.train()
        loss, state = task.loss(model, task.batch(step), state)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        for module in model.modules():
            if isinstance(module, QuantizedLayer):
                module.constrain_()
        if step in STEPS:
            yield step, _evaluate(task, model)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
