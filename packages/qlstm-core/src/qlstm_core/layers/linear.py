"""The linear maps of a recurrent cell, from a vector to the pre-activations of every gate.

One map per path (input or recurrent), built once per forward call from weights that are already quantized and
normalised. All maps take ``(..., cols)`` to ``(..., gates, rows)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class LinearMap(Protocol):
    """A linear map from a vector to every gate's pre-activations."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """Return ``W x``, ``(n, gates, rows)``, from ``(n, cols)`` or from one-hot tokens ``(n,)``."""
        ...


def _columns(weight: Tensor, tokens: Tensor) -> Tensor:
    """Return the columns of ``weight`` ``(rows, cols)`` that ``tokens`` ``(n,)`` name, as ``(n, rows)``."""
    return F.embedding(tokens, weight.t())


@dataclass(frozen=True)
class Dense:
    """``W x`` with one matrix per gate.

    Args:
        weight: ``(gates, rows, cols)``.
    """

    weight: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.weight.dtype

    @property
    def matrix(self) -> Tensor:
        """The gates' matrices one below the other, ``(gates · rows, cols)``, as torch stores them."""
        return self.weight.flatten(0, 1)

    def __call__(self, x: Tensor) -> Tensor:
        """Return ``W x``, ``(n, gates, rows)``."""
        y = F.linear(x, self.matrix) if x.is_floating_point() else _columns(self.matrix, x)
        return y.unflatten(-1, self.weight.shape[:2])
