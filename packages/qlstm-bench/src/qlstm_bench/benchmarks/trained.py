"""Short trainings that accuracy and gradients are read from, always with the same seeds."""

from __future__ import annotations

import math
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from .choice import normalizers, quantizers, trained_cells

TASKS: dict[str, dict[str, Any]] = {
    "char-lm": {
        "data": "stdlib-char", "hidden": 64, "batch": 32, "unroll": 50, "steps": 80, "lr": 0.004,
        "eval_symbols": 16_000,
    },
    "digits": {"hidden": 64, "batch": 64, "steps": 80, "lr": 0.001},
}  # fmt: skip
"""Settings of each task: a few seconds, enough to tell a network that learns from one that does not.

At four times its learning rate, training on digits is chaotic: weights that differ by a rounding error end up
to a third apart, and a commit that only adds in another order looks worse.
"""

SEEDS = {"char-lm": 1, "digits": int(os.environ.get("QLSTM_ASV_SEEDS", "3"))}
"""How many trainings each figure is the mean of; fewer where only the suite itself is tried."""

READ = ("shortfall", "gradient_decades", "clipped_share", "lambda1_excess")
"""The figures that benchmarks read."""

Figures = dict[tuple[str, ...], dict[str, float]]
"""The figures of each training, by its task and the parameters of the benchmark."""


def setup_cache() -> Figures:
    """Train every pair on every task; return figures by task, quantizer and normaliser."""
    import torch

    torch.set_num_threads(1)
    return {
        (task, quantizer, normalizer): _train(task, quantizer, normalizer)
        for task in TASKS
        for quantizer in quantizers()
        for normalizer in normalizers()
    }


def train_cells() -> Figures:
    """Train every cell on characters, of 1 bit below layer normalisation; return figures by task and cell."""
    import torch

    torch.set_num_threads(1)
    return {("char-lm", cell): _train("char-lm", "bwn", "layer", cell) for cell in trained_cells()}


setup_cache.timeout = train_cells.timeout = 1800  # type: ignore[attr-defined]


class Trained:
    """Figures of each training on one task, of pairs unless it says otherwise.

    A commit that cannot train one is skipped.
    """

    params: tuple[list[str], ...] = (quantizers(), normalizers())
    param_names: tuple[str, ...] = ("quantizer", "normalizer")
    version = "1"
    task: str

    def setup(self, figures: Figures, *parameters: str) -> None:
        """Look the figures up."""
        self.figures = figures[(self.task, *parameters)]
        if not self.figures:
            raise NotImplementedError

    def figure(self, name: str) -> float:
        """Return one figure; of a commit that does not measure it yet, none."""
        return self.figures.get(name, math.nan)


def _train(task: str, quantizer: str, normalizer: str, cell: str | None = None) -> dict[str, float]:
    """Return the mean figures of a training; without those that its commit does not measure."""
    from qlstm_bench.training.run import train
    from qlstm_core.plugins import PluginError

    settings = {
        **TASKS[task],
        "task": task,
        "quantizer": quantizer,
        "normalizer": normalizer,
        "device": "cpu",
        **({"cell": cell} if cell else {}),
    }
    figures = []
    for seed in range(SEEDS[task]):
        # A folder of its own: a run that is found there already would not be trained again.
        with tempfile.TemporaryDirectory() as folder:
            try:
                result = train({**settings, "seed": seed}, Path(folder)).result
            except PluginError:  # this commit does not have the task, quantizer, normaliser or cell yet
                return {}
        figures.append({**result.metrics, "shortfall": _shortfall(result)})
    return {name: statistics.fmean(figure[name] for figure in figures) for name in READ if name in figures[0]}


def _shortfall(result: Any) -> float:
    """Return the figure of merit, turned so that lower is better; of a network that diverged, of a guess."""
    figure = "valid" if result.status == "completed" else "baseline"
    value = float(result.metrics[f"{figure}_{result.metric}"])
    if getattr(result, "higher_is_better", False):
        return 100.0 - value
    return value if math.isfinite(value) else float(result.metrics[f"baseline_{result.metric}"])
