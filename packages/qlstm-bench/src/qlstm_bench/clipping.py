"""Clipping gradients that may be larger than float32 can square."""

from __future__ import annotations

import math

import torch


def clip_gradients_(model: torch.nn.Module, limit: float) -> float:
    """Scale gradients down to a total norm of ``limit`` where it is larger, in place; return what it was.

    The norm is taken in float64: the squares of gradients above 1e19 overflow float32, and exploding is what
    they do here. It is infinite or NaN only where a gradient is.
    """
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norms = [torch.linalg.vector_norm(gradient, dtype=torch.float64) for gradient in gradients]
    norm = float(torch.stack(norms).norm())
    if limit < norm < math.inf:
        for gradient in gradients:
            gradient.mul_(limit / norm)
    return norm
