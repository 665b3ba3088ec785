"""Figures of gradient stability, never negative and better when lower, to follow over commits."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence

from qlstm_bench.gradients.analysis import LayerSummary
from qlstm_bench.training.result import StateGradientNorms

_SMALLEST, _LARGEST = math.ulp(0.0), sys.float_info.max


def stability_figures(layers: Sequence[LayerSummary]) -> dict[str, float]:
    """Return ``gradient_decades`` and, where λ1 is known, ``lambda1`` and ``lambda1_excess``."""
    figures = {"gradient_decades": gradient_decades(layer.norms for layer in layers)}
    known = [layer.bounds.lambda1 for layer in layers if layer.bounds is not None]
    if known:
        figures |= {"lambda1": max(known), "lambda1_excess": lambda1_excess(max(known))}
    return figures


def gradient_decades(norms: Iterable[StateGradientNorms]) -> float:
    """Return ``log10 (max_t ‖∂ξ/∂h_t‖ / min_t ‖∂ξ/∂h_t‖)``, of the layer and direction where it is largest.

    0 where every step gets the same; the number of decades that the gradient grows or fades by otherwise.
    Always finite: a norm that overflowed counts as the largest float64, one that underflowed as the smallest.
    """
    return max((_decades(of_layer.norms) for of_layer in norms), default=0.0)


def _decades(norms: Sequence[float]) -> float:
    largest = min(max(norms), _LARGEST)
    if largest == 0:  # the loss does not depend on this layer and direction through time
        return 0.0
    return math.log10(largest) - math.log10(max(min(norms), _SMALLEST))


def clipped_share(rows: Iterable[Mapping[str, float]]) -> float:
    """Return the share of optimizer steps whose gradient was clipped, from the lines of metrics.jsonl."""
    before, clipped = 0.0, 0.0
    for row in rows:
        if "clipped" in row:
            clipped += row["clipped"] * (row["step"] - before)
            before = row["step"]
    return clipped / before if before else 0.0


def lambda1_excess(lambda1: float) -> float:
    """Return by how much λ1 exceeds 1, or 0."""
    return max(0.0, lambda1 - 1.0)
