"""What a run has trained, from its folder: settings, prepared task, and model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from torch import nn

from qlstm_bench.config import RunConfig
from qlstm_bench.errors import RunError
from qlstm_bench.tasks import Task, tasks_of
from qlstm_bench.training.folder import Run
from qlstm_bench.training.run_files import read_model
from qlstm_core.plugins import registry


class Trained(NamedTuple):
    """A model with the trained weights, in evaluation mode, and its task, prepared."""

    model: nn.Module
    task: Task


def load_model(run: Run | os.PathLike[str] | str) -> Trained:
    """Return the model that a run has trained, and its task.

    Example::

        model, task = load_model("runs/char-lm-bwn-layer-1a2b3c4d")
        with torch.no_grad():
            print(task.evaluate(model, "valid"))

    Args:
        run: a run, its folder, or its ``model.safetensors``.

    Raises:
        RunError: a file that is missing, damaged, altered, or was not written by a run.
        BenchError, PluginError: its task, data or plugins are not there.
    """
    _, model, task = read_trained(run.directory if isinstance(run, Run) else Path(run))
    return Trained(model.eval(), task)


def read_trained(path: Path) -> tuple[RunConfig, nn.Module, Task]:
    """Return settings, model and prepared task of a run folder or of a ``model.safetensors``.

    Raises:
        RunError, BenchError, PluginError: as :func:`load_model`.
    """
    path = path / "model.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise RunError(f"{path}: no such file: expected the model of a run that has ended")
    config, state = read_model(path)
    task: Task = tasks_of(registry).create(config.task)
    task.prepare(config)
    model = task.model(config.quantizer, config.normalizer)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise RunError(f"{path}: does not fit its settings: {str(error).splitlines()[0]}") from error
    return config, model, task
