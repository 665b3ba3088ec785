"""Root-mean-square normalisation."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from qlstm_core import Normalizer
from qlstm_norm.gains import initial_gains


class RMSNorm(Normalizer):
    r"""Divides each gate by its root mean square: :math:`g ⊙ x/\sqrt{\mathrm{mean}(x²) + ε}`.

    Layer normalisation without centring and without a bias of its own.

    Args:
        gain: initial g of every feature.
        eps: ε, added to the mean square.
        cell: also normalise the cell state before the output's tanh.

    Attributes:
        gain: ``(gates, rows)``.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467, equation 4.
    """

    statistics: ClassVar[Literal["features", "batch"] | None] = "features"
    centered: ClassVar[bool] = False
    bias: None = None
    gain: nn.Parameter

    def __init__(self, gain: float = 1.0, eps: float = 1e-5, cell: bool = False) -> None:
        super().__init__()
        self.initial_gain = gain
        self.eps = eps
        self.cell = cell

    def prepare(self, weight: Tensor) -> None:
        """Create the gain for a side of ``weight``'s gates and rows."""
        self.gain = nn.Parameter(initial_gains(weight, self.initial_gain))

    def forward(self, preactivation: Tensor, step: int) -> Tensor:
        """Return the normalised ``(batch, gates, rows)``; the same at every step."""
        # In half precision squares and eps underflow, and the gradient of 1/√(eps) overflows.
        wide = preactivation.to(torch.promote_types(preactivation.dtype, torch.float32))
        z = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return z.to(preactivation.dtype) * self.gain

    def extra_repr(self) -> str:
        """Return the options."""
        return f"gain={self.initial_gain}, eps={self.eps}, cell={self.cell}"
