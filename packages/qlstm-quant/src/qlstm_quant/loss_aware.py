"""Loss-aware weights: codes and scales that least disturb the loss, by the optimizer's second moments.

Both minimise ``Σ D·(w − α·b)²``, a second-order picture of the loss in which the diagonal of its Hessian is
``D = √v + 1e-8`` for Adam's second moments v. Without moments (before the first step) D is one everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qlstm_core.layers.border import is_readable
from qlstm_quant.options import check_flag
from qlstm_quant.scale_statistics import bounded_sum, over_peak, wide_magnitude
from qlstm_quant.scaled import ScaledQuantizer, above, binary_codes, binary_scale, grid_scale

MAX_ITERATIONS = 100
"""Bound of LAT's alternation, which takes 10 to 20 for a million normally distributed weights."""


class LAB(ScaledQuantizer):
    """Loss-aware binarisation.

    Forward: ``α·sign(w)`` with ``α = Σ D|w| / Σ D``. An all-zero matrix gets the smallest normal number as α:
    a binary weight is never zero.
    Gradient: straight-through.

    Args:
        per_row: one α per row instead of one per gate.

    Reference: Hou, Yao, Kwok 2017, arXiv:1611.01600.
    """

    bits = 1
    scales = 1
    needs_curvature = True

    def __init__(self, per_row: bool = False) -> None:
        super().__init__()
        self.per_row = check_flag("lab", "per_row", per_row)

    def encode(self, weight: Tensor, curvature: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return sign(w) and α."""
        magnitude, peak = over_peak(wide_magnitude(weight), per_row=self.per_row)
        importance = _importance(magnitude, curvature)
        alpha = _weighted_mean(magnitude, importance, per_row=self.per_row)
        return binary_codes(weight), binary_scale(alpha * peak, weight.dtype)

    def extra_repr(self) -> str:
        """Return the options."""
        return f"per_row={self.per_row}"


class LAT(ScaledQuantizer):
    """Loss-aware ternarisation, the approximate algorithm (LAT_a).

    Forward: ``α·b``, alternating from b = sign(w) between ``α = Σ D·b·w / Σ D·|b|`` and
    ``b = sign(w)·1[|w| > α/2]`` until α stays the same. Dropping weights below half the mean raises the mean,
    so α only grows and b only loses weights: it always ends, and no half-step raises ``Σ D·(w − α·b)²``.
    Gradient: straight-through.

    Args:
        per_row: one α per row instead of one per gate.

    Reference: Hou, Kwok 2018, arXiv:1802.08635.
    """

    bits = 2
    scales = 1
    needs_curvature = True

    def __init__(self, per_row: bool = False) -> None:
        super().__init__()
        self.per_row = check_flag("lat", "per_row", per_row)

    def encode(self, weight: Tensor, curvature: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return −1, 0, +1 and α."""
        magnitude, peak = over_peak(wide_magnitude(weight), per_row=self.per_row)
        importance = _importance(magnitude, curvature)
        alpha = _weighted_mean(magnitude, importance, per_row=self.per_row)
        for _ in range(MAX_ITERATIONS):
            kept = above(magnitude, alpha / 2)
            refined = _weighted_mean(magnitude, importance * kept, per_row=self.per_row)
            last, alpha = alpha, refined
            # What settles once stays: where values cannot be read, all iterations give the same.
            if is_readable(alpha) and not bool((alpha > last).any()):
                break
        codes = kept.to(weight.dtype) * torch.sign(weight)
        return codes, grid_scale(alpha * peak, weight.dtype)

    def extra_repr(self) -> str:
        """Return the options."""
        return f"per_row={self.per_row}"


def _importance(magnitude: Tensor, curvature: Tensor | None) -> Tensor:
    """Return D = √v + 1e-8, or ones, in the magnitude's dtype."""
    if curvature is None:
        return torch.ones_like(magnitude)
    return curvature.detach().to(magnitude.dtype).sqrt().add_(1e-8)


def _weighted_mean(magnitude: Tensor, importance: Tensor, *, per_row: bool) -> Tensor:
    """Return Σ D|w| / Σ D, ``(gates, 1 or rows)``, in float64; 0 where there is nothing to average.

    Args:
        magnitude: |w| between 0 and 1, ``(gates, rows, cols)``.
        importance: D, same shape; a square root, so that sums of it do not overflow.
        per_row: average rows instead of matrices.
    """
    total = bounded_sum(importance, per_row=per_row).clamp(min=torch.finfo(torch.float64).tiny)
    return bounded_sum(importance * magnitude, per_row=per_row) / total
