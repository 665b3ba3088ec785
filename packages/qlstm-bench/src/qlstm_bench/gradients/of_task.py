"""The gradients of a task's loss, measured on a copy of its model."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from qlstm_bench.gradients.analysis import LayerAnalysis, analyze_gradients
from qlstm_bench.gradients.study.metrics import stability_figures
from qlstm_bench.gradients.through_time import StateGradients, state_gradients
from qlstm_bench.tasks import Task
from qlstm_bench.training.result import StateGradientNorms


def task_gradients(task: Task, model: nn.Module, seed: int) -> list[StateGradients]:
    """Return the gradients of a task's loss at its last time step, on a batch of its validation part.

    A copy of the model is measured, in training mode (stochastic quantizers sample, batch normalisation uses
    the batch's statistics) and in float64, so that only gradients beyond 1e308 overflow. The model and the
    random generators stay as they are.

    Args:
        task: prepared.
        model: any model of the task.
        seed: seed of the copy's random choices.
    """
    return _gradients(task, _copy(model), seed)


def task_gradient_norms(task: Task, model: nn.Module, seed: int) -> list[StateGradientNorms]:
    """Return the norms of :func:`task_gradients`.

    Args:
        task: prepared.
        model: any model of the task; it stays as it is.
        seed: seed of the random choices of the copy that is measured.
    """
    return [gradients.norms() for gradients in task_gradients(task, model, seed)]


def _copy(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).double().train()


def _gradients(task: Task, measured: nn.Module, seed: int) -> list[StateGradients]:
    with _seeded(measured, seed):
        return state_gradients(task.recurrent(measured), lambda: task.final_step_loss(measured))


@contextmanager
def _seeded(model: nn.Module, seed: int) -> Iterator[None]:
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def analyze_task(task: Task, model: nn.Module, seed: int, *, both_sides: bool = True) -> list[LayerAnalysis]:
    """Measure a task's model on a batch of its validation part, with the loss at the last time step.

    As :func:`qlstm_bench.gradients.task_gradients`: a copy is measured, in training mode and in float64.

    Args:
        task: prepared.
        model: any model of the task.
        seed: seed of the copy's random choices.
        both_sides: whether to compute both sides of the inequality; λ1 and λ2 alone cost less.
    """
    measured = _copy(model)
    return analyze_gradients(task.recurrent(measured), _gradients(task, measured, seed), both_sides)


def measure_stability(
    task: Task, model: nn.Module, seed: int
) -> tuple[list[StateGradientNorms], dict[str, float]]:
    """Return a model's gradient norms, and its ``gradient_growth`` and :func:`stability_figures`.

    Args:
        task: prepared.
        model: any model of the task; it stays as it is.
        seed: seed of the random choices of the copy that is measured.
    """
    layers = [layer.summary() for layer in analyze_task(task, model, seed, both_sides=False)]
    norms = [layer.norms for layer in layers]
    growth = max(of_layer.growth for of_layer in norms)
    return norms, {"gradient_growth": growth, **stability_figures(layers)}
