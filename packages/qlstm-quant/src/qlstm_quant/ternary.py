"""Ternary weights: two bits as stored, levels −, 0, +."""

from __future__ import annotations

import torch
from torch import Tensor

from qlstm_quant.options import check_flag
from qlstm_quant.scale_statistics import group_sum, mean_magnitude
from qlstm_quant.scaled import ScaledQuantizer, glorot_half, grid_scale, ternary_codes

THRESHOLD = 0.7
"""Threshold over mean|w|: near the optimum for weights distributed uniformly or normally (Li et al. 2016)."""


class TerConnect(ScaledQuantizer):
    """TernaryConnect: weights of −1, 0, +1.

    Forward: ``sign(w)`` where ``|w| > 0.7·mean|w|``, else 0; with ``stochastic``, while training, ``sign(w)``
    with probability ``min(|w|, 1)``, else 0.
    Gradient: straight-through. Constraint: the full-precision weight is clipped to [−1, 1] after each step.

    Args:
        stochastic: sample while training; ``eval()`` uses the threshold.
        per_row: one mean|w| per row instead of one per gate.
        clip: whether the full-precision weight is clipped; Hou et al. 2019 leave it as it is.

    References: Lin et al. 2016, arXiv:1510.03009 (sampling); Li et al. 2016, arXiv:1605.04711 (threshold);
    Hou et al. 2019 use it so for recurrent networks.
    """

    bits = 2

    def __init__(self, stochastic: bool = False, per_row: bool = False, clip: bool = True) -> None:
        super().__init__()
        self.stochastic = check_flag("ter-connect", "stochastic", stochastic)
        self.per_row = check_flag("ter-connect", "per_row", per_row)
        self.clip = check_flag("ter-connect", "clip", clip)

    def encode(self, weight: Tensor, curvature: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return −1, 0, +1 and scales of one."""
        one = weight.new_ones(weight.shape[0], 1)
        if self.stochastic and self.training:
            return _sample_ternary(weight, 1.0), one
        return ternary_codes(weight, _threshold(weight, per_row=self.per_row)), one

    def constrain_(self, weight: Tensor) -> None:
        """Clip the full-precision weight to [−1, 1] in place, with ``clip``."""
        if self.clip:
            with torch.no_grad():
                weight.clamp_(-1, 1)

    def extra_repr(self) -> str:
        """Return the options."""
        return f"stochastic={self.stochastic}, per_row={self.per_row}, clip={self.clip}"


class TWN(ScaledQuantizer):
    """Ternary weight network.

    Forward: ``α·sign(w)`` where ``|w| > Δ``, else 0, with ``Δ = 0.7·mean|w|`` and ``α`` the mean of ``|w|``
    above Δ, which for this Δ minimises ``‖w − α·b‖²``. An all-zero matrix stays zero.
    Gradient: straight-through.

    Args:
        per_row: one Δ and α per row instead of one per gate.

    Reference: Li et al. 2016, arXiv:1605.04711.
    """

    bits = 2
    scales = 1

    def __init__(self, per_row: bool = False) -> None:
        super().__init__()
        self.per_row = check_flag("twn", "per_row", per_row)

    def encode(self, weight: Tensor, curvature: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return −1, 0, +1 and α."""
        codes = ternary_codes(weight, _threshold(weight, per_row=self.per_row))
        above = group_sum(codes.abs(), per_row=self.per_row).clamp(min=1)
        # w · code is |w| above the threshold and 0 below it.
        alpha = group_sum(weight * codes, per_row=self.per_row) / above
        return codes, grid_scale(alpha, weight.dtype)

    def extra_repr(self) -> str:
        """Return the options."""
        return f"per_row={self.per_row}"


class STN(ScaledQuantizer):
    """Stochastic ternary network: weights of −W0, 0, +W0 with a fixed W0.

    Forward: while training, ``W0·sign(w)`` with probability ``min(|w|/W0, 1)``, else 0, so that the mean is w
    clipped to ±W0; in ``eval()`` the more probable value, ``W0·sign(w)`` where ``|w| > W0/2``, else 0.
    ``W0 = √(6 / (in + 4·hidden)) / 2`` follows from the weight's shape: ``in`` is its columns, ``4·hidden``
    the rows of all its gates.
    Gradient: straight-through. The probability is clipped, the weight is not.

    Reference: Ardakani et al. 2019, arXiv:1809.11086.
    """

    bits = 2

    def encode(self, weight: Tensor, curvature: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return −1, 0, +1 and W0."""
        w0 = glorot_half(weight)
        scale = weight.new_full((weight.shape[0], 1), w0)
        codes = (
            _sample_ternary(weight, w0) if self.training else ternary_codes(weight, weight.new_tensor(w0 / 2))
        )
        return codes, scale


class AbsMean(ScaledQuantizer):
    """Absmean ternary weights of BitNet b1.58.

    Forward: ``γ·round(clip(w/γ, −1, 1))`` with ``γ = mean|w|``: ``γ·sign(w)`` where ``|w| > γ/2``, else 0. An
    all-zero matrix stays zero.
    Gradient: straight-through.

    Args:
        per_row: one γ per row instead of one per gate.

    Reference: Ma et al. 2024, arXiv:2402.17764.
    """

    bits = 2
    scales = 1

    def __init__(self, per_row: bool = False) -> None:
        super().__init__()
        self.per_row = check_flag("absmean", "per_row", per_row)

    def encode(self, weight: Tensor, curvature: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return −1, 0, +1 and γ."""
        gamma = mean_magnitude(weight, per_row=self.per_row)
        codes = ternary_codes(weight, (gamma / 2).to(weight.dtype).unsqueeze(-1))
        return codes, grid_scale(gamma, weight.dtype)

    def extra_repr(self) -> str:
        """Return the options."""
        return f"per_row={self.per_row}"


def _sample_ternary(weight: Tensor, limit: float) -> Tensor:
    """Return sign(w) with probability ``min(|w|/limit, 1)``, else 0, in the weight's dtype.

    Args:
        weight: any shape, floating point.
        limit: positive; beyond it the sign is certain.
    """
    # A threshold uniform in [0, limit). Drawn in float32 at least: half types would make few distinct ones.
    wide = torch.promote_types(weight.dtype, torch.float32)
    threshold = torch.rand(weight.shape, dtype=wide, device=weight.device).mul_(limit)
    return ternary_codes(weight.to(wide), threshold).to(weight.dtype)


def _threshold(weight: Tensor, *, per_row: bool) -> Tensor:
    """Return Δ = 0.7·mean|w|, ``(gates, 1 or rows, 1)`` in the weight's dtype."""
    return (THRESHOLD * mean_magnitude(weight, per_row=per_row)).to(weight.dtype).unsqueeze(-1)
