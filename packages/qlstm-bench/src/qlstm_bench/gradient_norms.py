"""How the gradient of a loss grows or fades on its way back through time."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qlstm_bench.tasks import Task
from qlstm_core import RecurrentLayer, record_states


@dataclass(frozen=True)
class StateGradientNorms:
    """``‖∂ξ_T/∂h_t‖`` of one layer and direction.

    Args:
        layer: counted from 0.
        direction: 0 forwards, 1 backwards in time.
        norms: for t = 1 … T, over batch and units; infinite where the gradient overflows float64.
    """

    layer: int
    direction: int
    norms: tuple[float, ...]

    @property
    def growth(self) -> float:
        """``‖∂ξ_T/∂h_1‖ / ‖∂ξ_T/∂h_T‖``: above 1 the gradient explodes, below 1 it vanishes."""
        first, last = self.norms[0], self.norms[-1]
        if math.isinf(first) or last == 0:
            return math.inf if first > 0 else math.nan
        return first / last


def state_gradient_norms(layer: RecurrentLayer, loss: Callable[[], Tensor]) -> list[StateGradientNorms]:
    """Return the norms of ``∂ξ_T/∂h_t`` for every step, layer and direction.

    Args:
        layer: the recurrent layer that ``loss`` runs once.
        loss: computes ξ_T, a scalar.
    """
    with record_states(layer) as traces:
        objective = loss()
    states = [h for trace in traces for h in trace.h]
    gradients = iter(torch.autograd.grad(objective, states, allow_unused=True))
    return [
        StateGradientNorms(trace.layer, trace.direction, tuple(_norm(next(gradients)) for _ in trace.h))
        for trace in traces
    ]


def task_gradient_norms(task: Task, model: nn.Module, seed: int) -> list[StateGradientNorms]:
    """Return the gradient norms of a task's last time step, on a batch of its validation part.

    A copy of the model is measured, in training mode (stochastic quantizers sample, batch normalisation uses
    the batch's statistics) and in float64, so that only gradients beyond 1e308 overflow. The model and the
    random generators stay as they are.

    Args:
        task: prepared.
        model: any model of the task.
        seed: of the copy's random choices.
    """
    device = next(model.parameters()).device
    measured = copy.deepcopy(model).double().train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        return state_gradient_norms(task.recurrent(measured), lambda: task.final_step_loss(measured))


def _norm(gradient: Tensor | None) -> float:
    if gradient is None:  # the loss does not depend on this state
        return 0.0
    # Scaled by the largest element: its square could overflow where the norm itself does not.
    largest = gradient.abs().max()
    if largest == 0:
        return 0.0
    norm = (largest * torch.linalg.vector_norm(gradient / largest)).item()
    # A gradient that overflowed meets a zero on its way and turns into NaN: it is no less infinite for that.
    return math.inf if math.isnan(norm) else norm
