"""What a run starts from: gains of weight normalisation from its first batch, learned initial states."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from qlstm_bench.config import ConfigError, RunConfig
from qlstm_bench.tasks import Task
from qlstm_core import InitialState
from qlstm_core.init import data_start_
from qlstm_core.interfaces import acts_on_activations, acts_on_weights
from qlstm_core.plugins import registry


def check_data_start(config: RunConfig) -> None:
    """Check that a run which starts gains from data has such gains.

    Raises:
        ConfigError: a normaliser that does not act on weights alone.
    """
    if not config.data_start:
        return
    normalizer = registry.normalizers.create(config.normalizer)
    if not acts_on_weights(normalizer) or acts_on_activations(normalizer):
        raise ConfigError(
            f"data_start: normalizer {config.normalizer!r} has no gains of weights to start from data; "
            "expected weight"
        )


def check_initial_state(model: nn.Module, config: RunConfig) -> None:
    """Check that a model learns the state it begins from, if the settings say so.

    Raises:
        ConfigError: the task's model has none to learn.
    """
    learns = any(isinstance(module, InitialState) for module in model.modules())
    if config.initial_state == "learned" and not learns:
        raise ConfigError(f"initial_state: the model of task {config.task} learns none; expected zeros")


def start_from_data(task: Task, model: nn.Module) -> None:
    """Start the gains of a new model's recurrent layer from the task's first batch, whole and on the CPU.

    Every process of a team does the same and gets the same.

    Args:
        task: prepared.
        model: a model of the task, on the CPU.

    Source: :func:`qlstm_core.init.data_start_`.
    """
    layer = task.recurrent(model)
    calls: list[tuple[Any, Any]] = []
    hook = layer.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    model.train()
    try:
        with torch.no_grad():
            task.loss(model, task.batch(0), None)
    finally:
        hook.remove()
    args, kwargs = calls[0]
    data_start_(layer, *args, **kwargs)
