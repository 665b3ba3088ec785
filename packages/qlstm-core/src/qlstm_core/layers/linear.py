"""The linear maps of a recurrent cell, from a vector to the pre-activations of every gate.

One map per side (input or recurrent), built once per forward call from weights that are already quantized and
normalised. All maps take ``(..., cols)`` to ``(..., gates, rows)``. Sizes are those of ``shape``:
``len`` would fix the batch that torch.export is told to leave open.
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

    @property
    def shape(self) -> torch.Size:
        """``(gates, rows)`` of the pre-activations; with groups ``(groups · gates, rows)``."""
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """Return ``W x``, ``(n, gates, rows)``, from ``(n, cols)`` or from one-hot tokens ``(n,)``."""
        ...


def _product(weight: Tensor, x: Tensor) -> Tensor:
    """Return ``x Wᵀ`` for ``weight`` ``(rows, cols)``: a product, or the columns that tokens name."""
    return F.linear(x, weight) if x.is_floating_point() else F.embedding(x, weight.t())


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
    def shape(self) -> torch.Size:
        """``(gates, rows)`` of the pre-activations."""
        return self.weight.shape[:2]

    @property
    def matrix(self) -> Tensor:
        """The gates' matrices one below the other, ``(gates · rows, cols)``, as torch stores them."""
        return self.weight.flatten(0, 1)

    def __call__(self, x: Tensor) -> Tensor:
        """Return ``W x``, ``(n, gates, rows)``."""
        y = _product(self.matrix, x)
        return y.view(x.shape[0], *self.shape)


@dataclass(frozen=True)
class Factored:
    """``W2 (W1 x)``: every gate shares the factor of low rank.

    Args:
        outer: W2, ``(gates, rows, rank)``.
        inner: W1, ``(rank, cols)``.
    """

    outer: Tensor
    inner: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.outer.dtype

    @property
    def shape(self) -> torch.Size:
        """``(gates, rows)`` of the pre-activations."""
        return self.outer.shape[:2]

    def __call__(self, x: Tensor) -> Tensor:
        """Return ``W2 W1 x``, ``(n, gates, rows)``."""
        y = F.linear(_product(self.inner, x), self.outer.flatten(0, 1))
        return y.view(x.shape[0], *self.shape)


@dataclass(frozen=True)
class Grouped:
    """A block-diagonal ``W x``: each group of rows sees its own group of inputs. One batched product.

    Args:
        weight: ``(groups · gates, rows, cols)``, the gates of the first group first.
        groups: number of groups.
        parts: how many vectors, each split into the groups, stand one after the other in the input: 2 for the
            output of a bidirectional layer, so that a group sees both directions of its own features.
    """

    weight: Tensor
    groups: int
    parts: int = 1

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.weight.dtype

    @property
    def shape(self) -> torch.Size:
        """``(groups · gates, rows)`` of the pre-activations."""
        return self.weight.shape[:2]

    def __call__(self, x: Tensor) -> Tensor:
        """Return the blocks' products, ``(n, groups · gates, rows)``."""
        count, rows, cols = self.weight.shape
        blocks = self.weight.reshape(self.groups, -1, cols)  # a plugin may return any strides
        if x.is_floating_point():
            split = x.view(x.shape[0], self.parts, self.groups, cols // self.parts)
            grouped = split.permute(2, 0, 1, 3).reshape(self.groups, x.shape[0], cols)
            y = torch.bmm(grouped, blocks.transpose(1, 2)).transpose(0, 1)
        else:
            # A one-hot vector is zero in every group but its own.
            own = F.one_hot(x // cols, self.groups).to(blocks.dtype)
            y = own.unsqueeze(-1) * F.embedding(x, blocks.transpose(1, 2).flatten(0, 1)).unsqueeze(1)
        return y.reshape(x.shape[0], count, rows)
