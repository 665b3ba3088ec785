"""Clipping gradients that may be larger than float32 can square."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from qlstm_core import RecurrentLayer


def clip_gradients_(model: nn.Module, limit: float, *, apart: bool = False) -> float:
    """Scale gradients down to a norm of ``limit`` where it is larger, in place; return what it was over all.

    The norm is taken in float64: the squares of gradients above 1e19 overflow float32, and exploding is what
    they do here. It is infinite or NaN only where a gradient is.

    Args:
        model: whose parameters have gradients.
        limit: largest norm.
        apart: give the parameters of recurrent layers a norm of their own, and the rest another. One norm
            over all, the paper's, scales the output layer's gradient to nothing where those of the recurrent
            weights explode.
    """
    recurrent = {
        id(p) for layer in model.modules() if isinstance(layer, RecurrentLayer) for p in layer.parameters()
    }
    gradients: tuple[list[Tensor], list[Tensor]] = ([], [])
    for parameter in model.parameters():
        if parameter.grad is not None:
            if parameter.grad.is_sparse:  # rows that came up twice are added, before their norm is taken
                parameter.grad = parameter.grad.coalesce()
            gradients[apart and id(parameter) in recurrent].append(parameter.grad)
    norms = [_clip(group, limit) for group in gradients]
    return math.hypot(*norms)


def _clip(gradients: Sequence[Tensor], limit: float) -> float:
    norm = _norm(gradients)
    if limit < norm < math.inf:
        for gradient in gradients:
            gradient.mul_(limit / norm)
    return norm


def _norm(gradients: Iterable[Tensor]) -> float:
    values = [gradient.values() if gradient.is_sparse else gradient for gradient in gradients]
    norms = [torch.linalg.vector_norm(value, dtype=torch.float64) for value in values]
    return float(torch.stack(norms).norm()) if norms else 0.0
