"""Binary weights: one bit, two levels, never zero. sign(0) is +1 throughout."""

from __future__ import annotations

import torch
from torch import Tensor

from qlstm_quant.options import check_flag
from qlstm_quant.scaled import ScaledQuantizer, binary_codes, binary_scale, mean_magnitude


class BinaryConnect(ScaledQuantizer):
    """BinaryConnect: weights of ±1.

    Forward: ``sign(w)``; with ``stochastic``, while training, +1 with probability ``clip((w + 1)/2, 0, 1)``,
    else −1.
    Gradient: straight-through. Constraint: the full-precision weight is clipped to [−1, 1] after each step,
    beyond which it would have no influence.

    Args:
        stochastic: sample while training; ``eval()`` uses sign(w), the more probable value.

    Reference: Courbariaux, Bengio, David 2015, arXiv:1511.00363, equations 1 to 3 and algorithm 1.
    """

    bits = 1

    def __init__(self, stochastic: bool = False) -> None:
        super().__init__()
        self.stochastic = check_flag("binary-connect", "stochastic", stochastic)

    def encode(self, weight: Tensor, curvature: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return ±1 and scales of one."""
        one = weight.new_ones(weight.shape[0], 1)
        if self.stochastic and self.training:
            return sampled_signs(weight, weight.new_ones(())), one
        return binary_codes(weight), one

    def constrain_(self, weight: Tensor) -> None:
        """Clip the full-precision weight to [−1, 1] in place."""
        with torch.no_grad():
            weight.clamp_(-1, 1)

    def extra_repr(self) -> str:
        """Return the options."""
        return f"stochastic={self.stochastic}"


class BWN(ScaledQuantizer):
    """Binary weight network: the scaled signs nearest to the weight.

    Forward: ``α·sign(w)`` with ``α = mean|w|``, the minimum of ``‖w − α·b‖²`` over α ≥ 0 and b ∈ {−1, +1}. An
    all-zero matrix gets the smallest normal number as α: a binary weight is never zero.
    Gradient: straight-through.

    Args:
        per_row: one α per row instead of one per gate.

    Reference: Rastegari et al. 2016, arXiv:1603.05279, equation 6.
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


def sampled_signs(weight: Tensor, limit: Tensor) -> Tensor:
    """Return +1 with probability ``clip((w/limit + 1)/2, 0, 1)``, else −1, in the weight's dtype.

    Args:
        weight: any shape, floating point.
        limit: positive scalar, beyond which the sign is certain.
    """
    # sign(w − v), v uniform in (−limit, limit]. Drawn in float32 at least: half types have few distinct v.
    wide = torch.promote_types(weight.dtype, torch.float32)
    v = torch.rand(weight.shape, dtype=wide, device=weight.device).mul_(-2).add_(1).mul_(limit.to(wide))
    return binary_codes(weight - v).to(weight.dtype)
