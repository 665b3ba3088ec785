"""One step of back-propagation, written out: from a cell's states to the ones before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from qlstm_bench.gradients.normalization import GradientAnalysisError
from qlstm_bench.gradients.unrolled import Unrolled
from qlstm_core.layers.cell import GRU_CELL, LSTM_CELL, Cell


class ChainRule(Protocol):
    """How gradients pass back through each step of a cell; every tensor is ``(T, batch, features)``."""

    slopes: tuple[Tensor, ...]

    def back(self, dh: Tensor, dc: Tensor) -> tuple[Tensor, Tensor]:
        """Return what reaches ``(h_{k−1}, c_{k−1})`` of what arrives at ``(h_k, c_k)``."""
        ...


class LSTMChainRule:
    """``∂ξ/∂h_{k−1} = Σ_* Jᵀ(slope_* ⊙ …)`` for the LSTM; docs/gradient-bounds.md has the formulas.

    Args:
        unrolled: the layer over a batch.

    Attributes:
        slopes: of c_k in the pre-activations of i, f and g, and of the emitted state in that of o.
        forget: σ(f), the slope of c_k in c_{k−1}.
        leaving: σ(o) (1 − tanh²(c)), the slope of the emitted state in the (normalised) cell state.
    """

    def __init__(self, unrolled: Unrolled) -> None:
        u = self._unrolled = unrolled
        i, f, g, o = (u.x + u.r).unbind(2)
        i, self.forget, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        squashed = (u.c if u.cell_norm is None else u.cell_norm.output.flatten(2)).tanh()
        self.leaving = o * (1 - squashed * squashed)
        self.slopes: tuple[Tensor, ...] = (
            g * i * (1 - i),
            u.c_before * self.forget * (1 - self.forget),
            i * (1 - g * g),
            squashed * o * (1 - o),
        )

    def _emitted(self, dh: Tensor) -> Tensor:
        projection = self._unrolled.prepared.projection
        return dh if projection is None else dh @ projection.detach()

    def to_hidden(self, dh: Tensor, dc: Tensor) -> Tensor:
        """Return what reaches h_{k−1}, given all of ``∂ξ/∂h_k`` and all of ``∂ξ/∂c_k``."""
        emitted = self._emitted(dh) * self.slopes[3]
        return self._unrolled.pull_back(torch.stack([*(dc * s for s in self.slopes[:3]), emitted], 2))

    def to_cell(self, dh: Tensor) -> Tensor:
        """Return what of ``∂ξ/∂h_k`` reaches c_k."""
        reached = self._emitted(dh) * self.leaving
        norm = self._unrolled.cell_norm
        if norm is None:
            return reached
        return norm.pull_back(reached.unflatten(-1, (self._unrolled.prepared.groups, -1))).flatten(2)

    def back(self, dh: Tensor, dc: Tensor) -> tuple[Tensor, Tensor]:
        """Return what reaches ``(h_{k−1}, c_{k−1})`` of what arrives at ``(h_k, c_k)``."""
        dc = dc + self.to_cell(dh)
        return self.to_hidden(dh, dc), dc * self.forget


class GRUChainRule:
    """``∂ξ/∂h_{k−1} = z ⊙ ∂ξ/∂h_k + Σ_* Jᵀ(slope_* ⊙ ∂ξ/∂h_k)`` for the GRU.

    Args:
        unrolled: the layer over a batch.

    Attributes:
        slopes: of h_k in the recurrent sides of r, z and n.
        update: z, the slope of h_k in h_{k−1} itself.
    """

    def __init__(self, unrolled: Unrolled) -> None:
        u = self._unrolled = unrolled
        parted = u.r[:, :, 2]
        reset = (u.x[:, :, 0] + u.r[:, :, 0]).sigmoid()
        z = self.update = (u.x[:, :, 1] + u.r[:, :, 1]).sigmoid()
        new = (u.x[:, :, 2] + reset * parted).tanh()
        of_new = (1 - z) * (1 - new * new)
        self.slopes: tuple[Tensor, ...] = (
            of_new * parted * reset * (1 - reset),
            (u.h_before - new) * z * (1 - z),
            of_new * reset,
        )

    def to_hidden(self, dh: Tensor) -> Tensor:
        """Return what reaches h_{k−1} of ``∂ξ/∂h_k``."""
        return self.update * dh + self._unrolled.pull_back(torch.stack([dh * s for s in self.slopes], 2))

    def back(self, dh: Tensor, dc: Tensor) -> tuple[Tensor, Tensor]:
        """Return what reaches h_{k−1}, and nothing: there is no cell state."""
        return self.to_hidden(dh), dc


def chain_rule(unrolled: Unrolled) -> ChainRule:
    """Return the chain rule of a layer's cell.

    Raises:
        GradientAnalysisError: a cell that is neither LSTM nor GRU.
    """
    return CHAIN_RULES[known_cell(unrolled)](unrolled)


def known_cell(unrolled: Unrolled) -> Cell:
    """Return a layer's cell if its gradients are known.

    Raises:
        GradientAnalysisError: another cell.
    """
    cell = unrolled.prepared.cell
    if cell not in CHAIN_RULES:
        names = " and ".join(known.name.upper() for known in CHAIN_RULES)
        raise GradientAnalysisError(f"gradient bounds are known for the cells {names} alone, not {cell.name}")
    return cell


CHAIN_RULES: dict[Cell, Callable[[Unrolled], ChainRule]] = {LSTM_CELL: LSTMChainRule, GRU_CELL: GRUChainRule}
