"""How the gradient of a loss grows or fades on its way back through time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qlstm_bench.training.result import StateGradientNorms
from qlstm_core import RecurrentLayer, StateTrace, record_states


@dataclass(frozen=True)
class StateGradients:
    """The states of one layer and direction, and the gradient of a loss with respect to each.

    Args:
        trace: the states and gates, as the layer computed them.
        h: ``∂ξ_m/∂h_t``, one ``(live batch, out)`` per time step, in order of time. The derivative is total:
            h_t acts on the loss through everything that comes after it.
        c: ``∂ξ_m/∂c_t``, likewise; empty for a cell without cell state.
    """

    trace: StateTrace
    h: list[Tensor]
    c: list[Tensor]

    def norms(self) -> StateGradientNorms:
        """Return the norm of every gradient, over batch and units."""
        return StateGradientNorms(
            self.trace.layer, self.trace.direction, tuple(map(_norm, self.h)), tuple(map(_norm, self.c))
        )


def state_gradients(layer: RecurrentLayer, loss: Callable[[], Tensor]) -> list[StateGradients]:
    """Return the gradient of a loss with respect to every state, for every layer and direction.

    For this one call the layer runs its readable loop, whatever faster route it takes otherwise.

    Args:
        layer: the recurrent layer that ``loss`` runs once.
        loss: computes ξ_m, a scalar.
    """
    with record_states(layer) as traces:
        objective = loss()
    states = [state for trace in traces for state in (*trace.h, *trace.c)]
    gradients = iter(_gradients(objective, states))
    return [
        StateGradients(trace, [next(gradients) for _ in trace.h], [next(gradients) for _ in trace.c])
        for trace in traces
    ]


def state_gradient_norms(layer: RecurrentLayer, loss: Callable[[], Tensor]) -> list[StateGradientNorms]:
    """Return the norms of ``∂ξ_m/∂h_t`` and ``∂ξ_m/∂c_t`` for every step, layer and direction.

    Example::

        layer = LSTM(8, 16, quantizer="binary-connect", normalizer="layer")
        x = torch.randn(20, 4, 8)
        for norms in state_gradient_norms(layer, lambda: layer(x)[0][-1].sum()):
            print(norms.layer, norms.growth)

    Args:
        layer: the recurrent layer that ``loss`` runs once.
        loss: computes ξ_m, a scalar.
    """
    return [gradients.norms() for gradients in state_gradients(layer, loss)]


def _gradients(objective: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
    """Return ``∂objective/∂state``, zeros where the objective does not depend on the state."""
    found = torch.autograd.grad(objective, states, allow_unused=True)
    return [torch.zeros_like(s) if g is None else g for s, g in zip(states, found, strict=True)]


def _norm(gradient: Tensor) -> float:
    return vector_norms(gradient.flatten().unsqueeze(0)).item()


def vector_norms(vectors: Tensor) -> Tensor:
    """Return Euclidean norms over the last dimension, of elements whose squares may overflow.

    A gradient that overflowed meets a zero on its way and turns into NaN: it is no less infinite for that.
    """
    largest = vectors.abs().amax(-1, keepdim=True)
    scale = torch.where(largest > 0, largest, torch.ones_like(largest))
    norms = scale.squeeze(-1) * torch.linalg.vector_norm(vectors / scale, dim=-1)
    return torch.where(norms.isnan(), torch.full_like(norms, math.inf), norms)
