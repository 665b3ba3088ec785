"""Normalisation by the largest magnitude."""

from __future__ import annotations

from torch import Tensor, nn

from qlstm_core import Normalizer


class MaxNorm(Normalizer):
    """Divides each gate by its largest magnitude: ``g ⊙ x / max(max|x|, ε)``.

    Args:
        eps: ε, below which a pre-activation is not stretched.
        cell: also normalise the cell state before the output's tanh.

    Attributes:
        gain: g, ``(gates, rows)``.
    """

    gain: nn.Parameter

    def __init__(self, eps: float = 1e-5, cell: bool = False) -> None:
        super().__init__()
        self.eps = eps
        self.cell = cell

    def prepare(self, weight: Tensor) -> None:
        """Create the gain for a side of ``weight``'s gates and rows."""
        self.gain = nn.Parameter(weight.new_ones(weight.shape[:2]))

    def forward(self, preactivation: Tensor, step: int) -> Tensor:
        """Return the normalised ``(batch, gates, rows)``; the same at every step."""
        largest = preactivation.abs().amax(-1, keepdim=True).clamp(min=self.eps)
        return self.gain.to(preactivation) * preactivation / largest
