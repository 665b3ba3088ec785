"""Binary weights: one bit, two levels, never zero. sign(0) is +1 throughout."""

from __future__ import annotations

import torch
from torch import Tensor

from qlstm_quant.options import check_flag
from qlstm_quant.scale_statistics import mean_magnitude
from qlstm_quant.scaled import ScaledQuantizer, binary_codes, binary_scale, glorot_half


class BinaryConnect(ScaledQuantizer):
    """BinaryConnect: weights of ±1.

    Forward: ``sign(w)``; with ``stochastic``, while training, +1 with probability ``clip((w + 1)/2, 0, 1)``,
    else −1.
    Gradient: straight-through. Constraint: the full-precision weight is clipped to [−1, 1] after each step,
    beyond which it would have no influence.

    Args:
        stochastic: sample while training; ``eval()`` uses sign(w), the more probable value.
        clip: whether the full-precision weight is clipped; Hou et al. 2019 leave it as it is.

    Reference: Courbariaux, Bengio, David 2015, arXiv:1511.00363.
    """

    bits = 1

    def __init__(self, stochastic: bool = False, clip: bool = True) -> None:
        super().__init__()
        self.stochastic = check_flag("binary-connect", "stochastic", stochastic)
        self.clip = check_flag("binary-connect", "clip", clip)

    def encode(self, weight: Tensor, curvature: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return ±1 and scales of one."""
        one = weight.new_ones(weight.shape[0], 1)
        if self.stochastic and self.training:
            return _sample_signs(weight, 1.0), one
        return binary_codes(weight), one

    def constrain_(self, weight: Tensor) -> None:
        """Clip the full-precision weight to [−1, 1] in place, with ``clip``."""
        if self.clip:
            with torch.no_grad():
                weight.clamp_(-1, 1)

    def extra_repr(self) -> str:
        """Return the options."""
        return f"stochastic={self.stochastic}, clip={self.clip}"


class BWN(ScaledQuantizer):
    """Binary weight network: the scaled signs nearest to the weight.

    Forward: ``α·sign(w)`` with ``α = mean|w|``, the minimum of ``‖w − α·b‖²`` over α ≥ 0 and b ∈ {−1, +1}. An
    all-zero matrix gets the smallest normal number as α: a binary weight is never zero.
    Gradient: straight-through.

    Args:
        per_row: one α per row instead of one per gate.

    Reference: Rastegari et al. 2016, arXiv:1603.05279.
    """

    bits = 1
    scales = 1

    def __init__(self, per_row: bool = False) -> None:
        super().__init__()
        self.per_row = check_flag("bwn", "per_row", per_row)

    def encode(self, weight: Tensor, curvature: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return sign(w) and α."""
        return binary_codes(weight), binary_scale(mean_magnitude(weight, per_row=self.per_row), weight.dtype)

    def extra_repr(self) -> str:
        """Return the options."""
        return f"per_row={self.per_row}"


class SBN(ScaledQuantizer):
    """Stochastic binary network: weights of ±W0 with a fixed W0.

    Forward: while training, +W0 with probability ``clip((w/W0 + 1)/2, 0, 1)``, else −W0, so that the mean is
    w clipped to ±W0; in ``eval()`` the more probable value, ``W0·sign(w)``.
    ``W0 = √(6 / (in + 4·hidden)) / 2`` follows from the weight's shape: ``in`` is its columns, ``4·hidden``
    the rows of all its gates.
    Gradient: straight-through. The probability is clipped, the weight is not.

    Reference: Ardakani et al. 2019, arXiv:1809.11086.
    """

    bits = 1

    def encode(self, weight: Tensor, curvature: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return ±1 and W0."""
        w0 = glorot_half(weight)
        scale = weight.new_full((weight.shape[0], 1), w0)
        return _sample_signs(weight, w0) if self.training else binary_codes(weight), scale


def _sample_signs(weight: Tensor, limit: float) -> Tensor:
    """Return +1 with probability ``clip((w/limit + 1)/2, 0, 1)``, else −1, in the weight's dtype.

    Args:
        weight: any shape, floating point.
        limit: positive; beyond it the sign is certain.
    """
    # sign(w − v), v uniform in (−limit, limit]. Drawn in float32 at least: half types have few distinct v.
    wide = torch.promote_types(weight.dtype, torch.float32)
    v = torch.rand(weight.shape, dtype=wide, device=weight.device).mul_(-2).add_(1).mul_(limit)
    return binary_codes(weight - v).to(weight.dtype)
