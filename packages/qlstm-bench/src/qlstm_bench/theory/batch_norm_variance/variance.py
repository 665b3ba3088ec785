"""Variance of the back-propagated gradient, layer by layer (Sari and Partovi Nia)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import pandas as pd
import torch
from pydantic import Field

from qlstm_bench.theory.batch_norm_variance import formulas as formulas
from qlstm_bench.theory.batch_norm_variance.random_networks import measure_variances
from qlstm_bench.theory.experiment import Experiment, Findings, Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NETWORKS = (
    ("full", "linear"),
    ("full", "relu"),
    ("binary", "sign"),
    ("binary", "clipped-sign"),
    ("ternary", "relu"),
)
"""Weights and activations that are measured, each with and without batch normalisation."""


class GradientVariance(Experiment):
    """V(∂L/∂s^l) relative to the last layer's, in random fully connected networks of widths K_0 … K_L.

    Printed, without normalisation:  Π_{l'=l+1}^{L} K_{l'}·V(w^{l'}); V(w) = 1/K full precision, 1 binary,
        0.65 ternary
    Printed, with it ((2) to (8)):   Π_{l'=l}^{L−1} K_{l'+1}/K_{l'−1} · (1 + o(1/B^{1−ε}))
    Refined: each layer × E f'², with normalisation × (B − 1 − κ)/(B − 3)/V(f), κ = E z²f'²/E f'²
    Forward, printed: V(s^l) = V(x)·Π_{l'=1}^{l−1} K_{l'}·V(w^{l'}); refined: Π_{l'=1}^{l}
        K_{l'−1}·V(w^{l'})·E f²

    A ReLU after batch normalisation has mean 1/√(2π), which the next batch normalisation takes away again:
    σ̂² has V(f) = ½ − 1/(2π) where equation (6) has E f² = ½, and the gradient grows by π/(π − 1) = 1.47 a
    layer.
    Source: Sari and Partovi Nia 2020, "Batch normalization in quantized networks"; the growth under ReLU:
        Yang et
    al. 2019, "A mean field theory of batch normalization", arXiv:1902.08129.
    """

    width: tuple[Annotated[int, Field(ge=2)], ...] = Field(
        default=(16, 128), description="K_0, width of the input"
    )
    growth: tuple[Annotated[float, Field(ge=0.5, le=2)], ...] = Field(
        default=(1.0, 1.25), description="width of a layer over that before it"
    )
    depth: int = Field(default=8, ge=2, le=64, description="L, layers")
    batch: tuple[Annotated[int, Field(ge=4)], ...] = Field(
        default=(8, 64), description="B, samples; at least 4"
    )
    networks: int = Field(default=24, ge=2, description="random networks per case")

    def run(self, progress: Progress = lambda share: None) -> Findings:
        """Measure every kind of network."""
        sizes = [(K, r, B) for K in self.width for r in self.growth for B in self.batch]
        cases = [(*network, bn, *size) for network in NETWORKS for bn in (False, True) for size in sizes]
        rows = []
        for number, (kind, activation, bn, K, r, B) in enumerate(cases):
            generator = torch.Generator().manual_seed(self.seed)
            widths = [round(K * r**layer) for layer in range(self.depth + 1)]
            runs = [
                measure_variances(kind, activation, widths, B, bn, generator) for _ in range(self.networks)
            ]
            backward = torch.stack([run.backward for run in runs])
            forward = torch.stack([run.forward for run in runs]).mean(0)
            deviation = backward.std(0) / math.sqrt(self.networks)
            for layer in range(1, self.depth):
                rows.append(
                    {
                        "weights": kind, "activation": activation, "BN": "yes" if bn else "no",
                        "width": K, "growth": r, "batch": B, "layer": layer,
                        "measured": float(backward[:, layer - 1].mean()),
                        "stderr": float(deviation[layer - 1]),
                        "paper": formulas.paper_backward(kind, widths, layer, B, normalize=bn),
                        "refined": formulas.backward(kind, activation, widths, layer, B, normalize=bn),
                        "forward": float(forward[layer - 1]),
                        "paper forward": math.nan if bn else formulas.paper_forward(kind, widths, layer),
                        "refined forward": math.nan if bn else formulas.forward(
                            kind, activation, widths, layer
                        ),
                    }
                )  # fmt: skip
            progress((number + 1) / len(cases))
        layers = pd.DataFrame(rows)
        first = layers[layers.layer == 1].drop(
            columns=["layer", "forward", "paper forward", "refined forward"]
        )
        first["measured/paper, per layer"] = (first.measured / first.paper) ** (1 / (self.depth - 1))
        first["measured/refined, per layer"] = (first.measured / first.refined) ** (1 / (self.depth - 1))
        return Findings(
            first.reset_index(drop=True), lambda figure: _draw(figure, layers),
            "Gradient's variance relative to the last layer's, of the widest networks of equal layers and "
            "largest batch. Circles: measured; dashed: as printed; line: refined.",
            _remarks(first), (9.0, 5.0), {"layers": layers},
        )  # fmt: skip


def _remarks(first: pd.DataFrame) -> tuple[str, ...]:
    wide = first[(first.width == first.width.max()) & (first.batch == first.batch.max())]
    relu = wide[(wide.activation == "relu") & (wide.BN == "yes")]["measured/paper, per layer"]
    clipped = wide[(wide.activation == "clipped-sign") & (wide.BN == "yes")]["measured/paper, per layer"]
    sign = wide[(wide.activation == "sign") & (wide.BN == "yes")]["measured/paper, per layer"]
    narrow = first["measured/refined, per layer"]
    return (
        f"Widest layers, largest batch, with batch normalisation, in printed growths per layer: sign "
        f"{sign.min():.2f} to {sign.max():.2f}; ReLU {relu.min():.2f} to {relu.max():.2f} (π/(π − 1) = "
        f"1.47); sign with a clipped straight-through gradient {clipped.min():.2f} to {clipped.max():.2f} "
        "(P(|z| ≤ 1) = 0.68).",
        f"All cases: {narrow.min():.2f} to {narrow.max():.2f} times the refined growth per layer; "
        "the worst are narrow and of small batch.",
        "The printed V(s^l) stops one factor short: with K_{l−1} inputs to layer l it must run to l.",
    )


def _draw(figure: Figure, layers: pd.DataFrame) -> None:
    part = layers[
        (layers.width == layers.width.max())
        & (layers.batch == layers.batch.max())
        & (layers.growth == layers.growth.min())
    ]
    panels = figure.subplots(2, len(NETWORKS), sharex=True, squeeze=False)
    for row, bn in zip(panels, ("no", "yes"), strict=True):
        for axes, (kind, activation) in zip(row, NETWORKS, strict=True):
            case = part[(part.weights == kind) & (part.activation == activation) & (bn == part.BN)]
            axes.semilogy(case.layer, case.paper, "--", color="#D55E00", label="as printed")
            axes.semilogy(case.layer, case.refined, "-", color="#0072B2", label="refined")
            axes.semilogy(case.layer, case.measured, "o", color="#000000", markersize=4, label="measured")
            axes.set_title(f"{kind}, {activation}", loc="left", fontsize=9)
        row[0].set_ylabel("with BN" if bn == "yes" else "without BN")
    for axes in panels[-1]:
        axes.set_xlabel("layer l")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
