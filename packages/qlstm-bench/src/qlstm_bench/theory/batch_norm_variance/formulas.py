"""Variances of sums and gradients in random networks: as printed, and with what is left out there.

K_l neurons in layer l, weights of variance V(w^l), activation f, batch size B; gradients relative to layer
L's. Source: Sari and Partovi Nia 2020, "Batch normalization in quantized networks".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qlstm_bench.theory.batch_norm_variance.batch_norm import paper_factor

WEIGHT_VARIANCE: Mapping[str, float] = {"binary": 1.0, "ternary": 0.65}
"""V(w) where it does not depend on the width; ternary: at Δ = 0.7·E|w| of uniform weights, equation (4)."""


@dataclass(frozen=True)
class Moments:
    """Of an activation f at a standard normal z.

    Args:
        square: E f².
        variance: V(f): what batch statistics of the next layer see.
        slope: E f'².
        weighted: E z²f'² / E f'².
    """

    square: float
    variance: float
    slope: float
    weighted: float


_INSIDE = math.erf(1 / math.sqrt(2))
_EDGE = math.exp(-0.5) / math.sqrt(2 * math.pi)

MOMENTS: Mapping[str, Moments] = {
    "linear": Moments(1.0, 1.0, 1.0, 1.0),
    "sign": Moments(1.0, 1.0, 1.0, 1.0),
    "clipped-sign": Moments(1.0, 1.0, _INSIDE, 1 - 2 * _EDGE / _INSIDE),
    "relu": Moments(0.5, 0.5 - 1 / (2 * math.pi), 0.5, 1.0),
}


def weight_variance(kind: str, fan_in: int) -> float:
    """Return V(w) of ``"full"`` (1/fan_in), ``"binary"`` or ``"ternary"`` weights."""
    return 1 / fan_in if kind == "full" else WEIGHT_VARIANCE[kind]


def paper_forward(kind: str, widths: Sequence[int], layer: int) -> float:
    """Return V(s^l) as printed: ``V(x)·Π_{l'=1}^{l−1} K_{l'}·V(w^{l'})``, V(x) = 1.

    Args:
        kind: kind of the weights.
        widths: K_0 … K_L.
        layer: l, from 1.
    """
    return math.prod(widths[k] * weight_variance(kind, widths[k - 1]) for k in range(1, layer))


def forward(kind: str, activation: str, widths: Sequence[int], layer: int) -> float:
    """Return V(s^l) without normalisation: ``Π_{l'=1}^{l} K_{l'−1}·V(w^{l'})·E f²(s^{l'−1})``.

    E f² is ½V(s) for a ReLU, V(s) for the identity, 1 for a sign.

    Args: as :func:`paper_forward`, and the activation.
    """
    variance = 1.0
    for k in range(1, layer + 1):
        scale = 1.0 if "sign" in activation else variance
        variance = widths[k - 1] * weight_variance(kind, widths[k - 1]) * MOMENTS[activation].square * scale
    return variance


def paper_backward(kind: str, widths: Sequence[int], layer: int, batch: int, *, normalize: bool) -> float:
    """Return V(∂L/∂s^l)/V(∂L/∂s^L) as printed.

    Without normalisation, equation (7), ``Π_{l'=l+1}^{L} K_{l'}·V(w^{l'})``. With it the product over l' =
    l … L − 1 of, for full precision, equation (2), ``(B² + 2B)/B² · K_{l'+1}·V(w^{l'+1})/σ̂²`` with σ̂² =
    K_{l'−1}·V(w^{l'}); for binary and ternary weights, equation (8), ``K_{l'+1}/K_{l'−1}`` up to
    o(1/B^{1−ε}).

    Args:
        kind: kind of the weights.
        widths: K_0 … K_L.
        layer: l, from 1.
        batch: B.
        normalize: whether there is batch normalisation.
    """
    layers = range(layer, len(widths) - 1)
    if not normalize:
        return math.prod(widths[k + 1] * weight_variance(kind, widths[k]) for k in layers)
    if kind == "full":
        return math.prod(
            paper_factor(batch) * widths[k + 1] * weight_variance(kind, widths[k]) for k in layers
        )
    return math.prod(widths[k + 1] / widths[k - 1] for k in layers)


def within_one(terms: int) -> float:
    """Return P(|s| ≤ 1) of a sum of that many ±1: only s = 0 for an even number, s = ±1 for an odd one."""
    return math.comb(terms, terms // 2) * (1 + terms % 2) / float(2**terms)


def backward(
    kind: str, activation: str, widths: Sequence[int], layer: int, batch: int, *, normalize: bool
) -> float:
    """Return V(∂L/∂s^l)/V(∂L/∂s^L) with the activation's slope, its mean, and the batch.

    One layer without normalisation: ``K_{l+1}·V(w^{l+1})·E f'²``. With it that is divided by
    ``σ̂² = K_{l−1}·V(w^l)·V(f)`` and multiplied by ``(B − 1 − κ)/(B − 3)``, κ = E z²f'²/E f'²: ``1 − (1 +
    κ)/B`` is what equation (1) leaves of a gradient, and ``B/(B − 3)`` the mean of σ²/σ̂² for normal sums. A
    clipped straight-through gradient without normalisation is for binary weights: its slope is
    :func:`within_one`.

    Args: as :func:`paper_backward`, and the activation; B above 3.
    """
    moments = MOMENTS[activation]
    product = 1.0
    for k in range(layer, len(widths) - 1):
        slope = moments.slope
        if activation == "clipped-sign" and not normalize:
            slope = within_one(widths[k - 1])
        product *= widths[k + 1] * weight_variance(kind, widths[k]) * slope
        if normalize:
            product /= widths[k - 1] * weight_variance(kind, widths[k - 1]) * moments.variance
            product *= (batch - 1 - moments.weighted) / (batch - 3)
    return product
