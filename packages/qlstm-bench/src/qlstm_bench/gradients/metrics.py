"""Figures of gradient stability, never negative and better when lower, to follow over commits."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from qlstm_bench.gradients.analysis import LayerSummary, analyze_task
from qlstm_bench.gradients.state_norms import StateGradientNorms
from qlstm_bench.tasks import Task

_SMALLEST, _LARGEST = math.ulp(0.0), sys.float_info.max


def measure_stability(
    task: Task, model: nn.Module, seed: int
) -> tuple[list[StateGradientNorms], dict[str, float]]:
    """Return a model's gradient norms, and its ``gradient_growth`` and :func:`stability_figures`.

    Args:
        task: prepared.
        model: any model of the task; it stays as it is.
        seed: of the random choices of the copy that is measured.
    """
    layers = [layer.summary() for layer in analyze_task(task, model, seed, both_sides=False)]
    norms = [layer.norms for layer in layers]
    growth = max(of_layer.growth for of_layer in norms)
    return norms, {"gradient_growth": growth, **stability_figures(layers)}


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
