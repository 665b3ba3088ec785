"""Gradient stability recorded during training: a line of gradients.jsonl every N steps."""

from __future__ import annotations

import copy
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from torch import nn

from qlstm_bench.config import RunConfig
from qlstm_bench.gradients.analysis import LayerSummary
from qlstm_bench.gradients.of_task import analyze_task
from qlstm_bench.gradients.study.metrics import stability_figures
from qlstm_bench.tasks import Task
from qlstm_bench.training.folder import Run
from qlstm_bench.training.run_files import read_lines

SEQUENCES = 12
"""How many sequences are measured: enough for batch statistics, few enough to cost little."""

_FILE = "gradients.jsonl"


class Recording(BaseModel):
    """What was measured after one optimizer step.

    Args:
        step: number of steps that had been done.
        layers: one for each layer and direction.
    """

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    step: int
    layers: tuple[LayerSummary, ...]


class GradientRecorder:
    """Measures a model as it trains, on the first sequences of validation; the training stays as it is.

    Args:
        run: the run whose folder gets ``gradients.jsonl``.
        task: the task that is trained.
        every: optimizer steps between two measurements; ``None``: never. The model is also measured before
            the first step.
    """

    def __init__(self, run: Run, task: Task, every: int | None) -> None:
        self._run, self._every = run, every
        self._task = task if every is None else _with_few_sequences(task, run.config)

    def restore(self, step: int, model: nn.Module) -> None:
        """Begin, or go on from a checkpoint.

        Args:
            step: optimizer steps done before.
            model: the model after these steps.
        """
        if step == 0:
            self.record(0, model)

    def record(self, step: int, model: nn.Module) -> dict[str, float]:
        """Measure where it is due, write it down, and return figures for metrics.jsonl, if any.

        Args:
            step: optimizer steps done.
            model: a model of the task.
        """
        if self._every is None or step % self._every:
            return {}
        layers = analyze_task(self._task, model, self._run.config.seed, both_sides=False)
        recording = Recording(step=step, layers=tuple(layer.summary() for layer in layers))
        self._run.append(_FILE, recording.model_dump_json().encode())
        return stability_figures(recording.layers)


def recordings(directory: Path) -> list[Recording]:
    """Return what was recorded in a run's folder, in order of steps; a torn last line is left out.

    Raises:
        RunError: a file that cannot be read, or a damaged line.
    """
    return read_lines(directory / _FILE, Recording.model_validate_json)


def _with_few_sequences(task: Task, config: RunConfig) -> Task:
    """Return the task on a small batch, prepared."""
    small = copy.copy(task)
    small.prepare(config.model_copy(update={"batch": min(config.batch, SEQUENCES)}))
    return small
