"""Layer normalisation."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from qlstm_core import Normalizer
from qlstm_norm.gains import initial_gains


class LayerNorm(Normalizer):
    r"""Normalises each gate over its features: :math:`g ⊙ (x − μ)/\sqrt{σ² + ε} + b`.

    Args:
        gain: initial g of every feature. 1 leaves pre-activations with unit variance, within the gates'
            responsive range.
        eps: ε, added to the variance.
        cell: also normalise the cell state before the output's tanh.

    Attributes:
        gain, bias: ``(gates, rows)``.

    Source: Ba, Kiros and Hinton 2016, arXiv:1607.06450, equation 4; Hou et al. 2019, proposition 3.
    """

    statistics: ClassVar[Literal["features", "batch"] | None] = "features"
    gain: nn.Parameter
    bias: nn.Parameter

    def __init__(self, gain: float = 1.0, eps: float = 1e-5, cell: bool = False) -> None:
        super().__init__()
        self.initial_gain = gain
        self.eps = eps
        self.cell = cell

    def prepare(self, weight: Tensor) -> None:
        """Create gain and bias for a side of ``weight``'s gates and rows."""
        self.gain = nn.Parameter(initial_gains(weight, self.initial_gain))
        self.bias = nn.Parameter(weight.new_zeros(weight.shape[:2]))

    def forward(self, preactivation: Tensor, step: int) -> Tensor:
        """Return the normalised ``(batch, gates, rows)``; the same at every step."""
        z = F.layer_norm(preactivation, preactivation.shape[-1:], eps=self.eps)
        return z * self.gain + self.bias

    def extra_repr(self) -> str:
        """Return the options."""
        return f"gain={self.initial_gain}, eps={self.eps}, cell={self.cell}"
