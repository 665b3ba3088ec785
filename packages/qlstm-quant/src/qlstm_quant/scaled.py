"""Quantizers of the form scale × code: what the binary, ternary and uniform families share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qlstm_core import BitPlanes, Quantizer, straight_through


class ScaledQuantizer(Quantizer):
    """``Q(W) = scale · code``, one scale per gate or per row and small integer codes.

    A subclass defines :meth:`encode`; values, bit planes and the straight-through gradient follow from it, so
    that ``bitplanes(w).dense()`` equals ``forward(w)`` bit for bit.

    Codes are ±1 for 1 bit, −1, 0, +1 for 2 bits, else integers below ``2^(bits−1)`` in magnitude.
    NaN stays NaN, so that divergence shows.
    """

    def encode(self, weight: Tensor, curvature: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return codes and scales.

        Args:
            weight: ``(gates, rows, cols)``, floating point, detached.
            curvature: second moments of the same shape, or ``None`` for ones.

        Returns:
            Codes of the weight's shape and dtype; scales ``(gates, 1 or rows)``, non-negative, same dtype.
        """
        raise NotImplementedError(f"{type(self).__name__} must define encode(weight, curvature)")

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        """Return ``scale · code``, of the weight's shape and dtype, with the gradient of the identity.

        Args:
            weight: ``(gates, rows, cols)``, floating point.
            curvature: second moments of the same shape; ``None`` means ones; used by loss-aware methods only.

        Raises:
            ValueError: a weight or a curvature of another shape.
        """
        codes, scale = self._encode(weight, curvature)
        return straight_through(weight, codes * scale.unsqueeze(-1))

    @torch.no_grad()
    def bitplanes(self, weight: Tensor, curvature: Tensor | None = None) -> BitPlanes:
        """Return codes and scales as bit planes: one plane, two for ternary codes, or ``bits``."""
        codes, scale = self._encode(weight, curvature)
        if self.bits == 1:
            return BitPlanes.from_binary(codes > 0, scale)
        if self.bits == 2:
            return BitPlanes.from_ternary(codes, scale)
        return BitPlanes.from_uniform(codes, scale, self.bits)

    def _encode(self, weight: Tensor, curvature: Tensor | None) -> tuple[Tensor, Tensor]:
        check_weight(weight)
        if curvature is not None and curvature.shape != weight.shape:
            raise ValueError(
                f"curvature must have the weight's shape {tuple(weight.shape)}, got {tuple(curvature.shape)}"
            )
        with torch.no_grad():
            return self.encode(weight.detach(), curvature)


def check_weight(weight: Tensor) -> None:
    """Raise ValueError unless ``weight`` is floating point, ``(gates, rows, cols)``."""
    if weight.dim() != 3 or not weight.is_floating_point():
        raise ValueError(
            "weight must be a floating-point tensor of shape (gates, rows, cols), "
            f"got {weight.dtype} {tuple(weight.shape)}"
        )


def binary_codes(weight: Tensor) -> Tensor:
    """Return sign(w) with sign(0) = +1, in the weight's dtype."""
    # ⌊clip(w, −1, 0)⌋ is −1 below zero and 0 above. Unlike torch.sign and torch.where this keeps NaN; it is
    # also several times faster than the latter.
    return torch.clamp(weight, -1, 0).floor_().mul_(2).add_(1)


def ternary_codes(weight: Tensor, threshold: Tensor) -> Tensor:
    """Return sign(w) where ``|w| > threshold``, else 0, in the weight's dtype.

    Args:
        weight: ``(gates, rows, cols)``.
        threshold: non-negative, of a shape that broadcasts to the weight's.
    """
    # clip(w, −Δ, Δ) − w is exactly 0 inside the threshold and has the opposite sign of w outside.
    excess = torch.clamp(weight, -threshold, threshold).sub_(weight)
    signs = torch.sign(excess)
    # torch.sign turns NaN into 0: the first term, else 0, keeps it.
    return excess.clamp_(-1, 1).mul_(0).sub_(signs)


def above(magnitude: Tensor, threshold: Tensor) -> Tensor:
    """Return 1 where the magnitude is above the threshold, else 0, in the magnitude's dtype.

    Args:
        magnitude: ``(gates, rows, cols)``.
        threshold: ``(gates, 1 or rows)``, any floating-point dtype.
    """
    # In floating point throughout: several times faster than a bool tensor and a conversion. A difference is
    # above 0 if and only if its parts differ so: it underflows to no 0.
    return torch.sub(magnitude, threshold.to(magnitude.dtype).unsqueeze(-1)).gt_(0)


def binary_scale(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Round a scale to ``dtype``, but not below its smallest normal number: a binary weight is never zero."""
    return scale.to(dtype).clamp(min=torch.finfo(dtype).tiny)


def grid_scale(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Round a scale so that half of it, and sums of its bit planes, are exact in ``dtype``.

    Args:
        scale: float64, non-negative.
        dtype: that of the weight.
    """
    if dtype == torch.float64:
        # Planes of up to 8 bits are summed in float64 without a wider type to round from: spare 8 bits of 53.
        return (scale.view(torch.int64) & -256).view(torch.float64)
    return (scale / 2).to(dtype) * 2


def glorot_half(weight: Tensor) -> float:
    """Return ``W0 = √(6 / (in + 4·hidden)) / 2``, half the bound of Glorot's uniform initialisation.

    Args:
        weight: ``(gates, rows, cols)``; ``in`` is cols, and ``4·hidden`` is gates · rows.

    Reference: Ardakani et al. 2019, arXiv:1809.11086.
    """
    gates, rows, cols = weight.shape
    return math.sqrt(6 / max(cols + gates * rows, 1)) / 2
