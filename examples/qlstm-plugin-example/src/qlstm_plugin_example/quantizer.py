"""Binary weights whose scale is a power of two, so that a product with it is a shift."""

from __future__ import annotations

import torch
from torch import Tensor

from qlstm_core import Quantizer, straight_through


class PowerOfTwo(Quantizer):
    """``α·sign(w)``, α the power of two nearest in its exponent to mean|w|; straight-through gradient."""

    bits = 1
    scales = 1

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        """Return ±α, one α for each gate of ``weight``, ``(gates, rows, cols)``."""
        mean = weight.abs().mean(dim=(1, 2), keepdim=True)
        alpha = mean.clamp(min=torch.finfo(weight.dtype).tiny).log2().round().exp2()
        return straight_through(weight, torch.where(weight < 0, -alpha, alpha))
