"""Words and images that one thread trains on in a second of its time, at the paper's sizes.

    python results/task_rates.py task-rates.csv

Whole optimizer steps: batch, forward, backward, clipping, Adam or SGD. Time of the process, not of the clock:
what else the machine does is left out.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import pandas as pd
import torch

from qlstm_bench import clip_gradients_, make_optimizer, resolve

STEPS = {"word-lm": 12, "mnist": 4}
NORMALIZERS = ("none", "weight", "layer", "batch-shared", "batch-separate")


def measure(name: str, quantizer: str, normalizer: str) -> dict[str, Any]:
    """Return a row of the table."""
    length = {"word-lm": 35, "mnist": 784}[name]
    given = f"{normalizer}:max_steps={length}" if normalizer == "batch-separate" else normalizer
    settings = {"task": name, "quantizer": quantizer, "normalizer": given, "steps": 1, "device": "cpu"}
    config, task = resolve(settings)
    task.prepare(config)
    torch.manual_seed(0)
    model = task.model(config.quantizer, config.normalizer).train()
    optimizer = make_optimizer(model, config, task.quantized_lr(task.recurrent(model)))
    state, seconds = None, []
    for step in range(1 + STEPS[name]):  # the first compiles
        began = time.process_time()
        loss, state = task.loss(model, task.batch(step), state)
        optimizer.zero_grad()
        loss.backward()
        clip_gradients_(model, config.clip)
        optimizer.step()
        task.recurrent(model).constrain_()
        seconds.append(time.process_time() - began)
    per_step = config.batch * (config.unroll or 1)
    return {
        "task": name,
        "unit": "words" if config.unroll else "images",
        "hidden": config.hidden,
        "batch": config.batch,
        "quantizer": config.quantizer,
        "normalizer": normalizer,
        "best_per_second": round(per_step / min(seconds[1:])),
        "median_per_second": round(per_step / statistics.median(seconds[1:])),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    rows = [measure(name, "ter-connect", normalizer) for name in STEPS for normalizer in NORMALIZERS]
    pd.DataFrame(rows).to_csv(sys.argv[1], index=False)
    print(pd.DataFrame(rows).to_string())
