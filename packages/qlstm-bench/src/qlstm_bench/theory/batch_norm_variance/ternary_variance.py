"""Variance of ternary weights and of the sums they make: equations (3) to (6) of Sari and Partovi Nia."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import pandas as pd
import torch
from pydantic import Field

from qlstm_bench.theory.batch_norm_variance.random_networks import ternarize
from qlstm_bench.theory.experiment import Experiment, Findings, Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def paper_variance(factor: float) -> float:
    """Return equation (4) at ``Δ = factor·E|w|``: ``V(w̃) = 1 − Δ/√(6/K) = 1 − factor/2``, at least 0.

    Args:
        factor: 0.7 in the literature, which gives 0.65.
    """
    return max(0.0, 1 - factor / 2)


def normal_variance(factor: float) -> float:
    """Return the same for normal instead of uniform weights: ``P(|w| > Δ) = erfc(factor/√π)``."""
    return math.erfc(factor / math.sqrt(math.pi))


def paper_sum_variance(variance: float) -> float:
    """Return equation (6) over K: ``σ̂²/K = ½·V(w̃)``."""
    return variance / 2


def sum_variance(variance: float) -> float:
    """Return σ̂²/K behind a ReLU with the activation's mean taken off: ``(½ − 1/(2π))·V(w̃)``.

    Every sample has the same mean activation 1/√(2π), so that its part of the sum is the same for the whole
    batch: the batch's deviation σ̂ does not see it.
    """
    return (0.5 - 1 / (2 * math.pi)) * variance


class TernaryVariance(Experiment):
    """Variance of ternarised weights, and of a layer's sums over a batch behind batch normalisation and ReLU.

    (4), (5)  Δ = t·E|w|, w uniform on ±√(6/K):  V(w̃) = 1 − Δ/√(6/K) = 1 − t/2;  0.65 at t = 0.7
    Normal w: V(w̃) = erfc(t/√π);  0.577 at t = 0.7
    (6)       σ̂² = K·½·V(w̃)
    Refined:  σ̂² = K·(½ − 1/(2π))·V(w̃): the batch mean takes the ReLU's mean away

    Source: Sari and Partovi Nia 2020, "Batch normalization in quantized networks"; Δ = 0.7·E|w|: Li and Liu
        2016.
    """

    factor: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        default=(0.0, 0.35, 0.7, 1.05, 1.4), description="t, Δ over E|w|"
    )
    width: int = Field(default=512, ge=2, le=8192, description="K, inputs and neurons of the layer")
    batch: int = Field(default=1024, ge=8, description="B, samples")

    def run(self, progress: Progress = lambda share: None) -> Findings:
        """Measure uniform and normal weights for each t."""
        rows = []
        generator = torch.Generator().manual_seed(self.seed)
        K = self.width
        activation = torch.relu(torch.randn(self.batch, K, dtype=torch.float64, generator=generator))
        for kind in ("uniform", "normal"):
            draw = torch.rand if kind == "uniform" else torch.randn
            weight = draw(K, K, dtype=torch.float64, generator=generator)
            weight = (2 * weight - 1) * math.sqrt(6 / K) if kind == "uniform" else weight * math.sqrt(2 / K)
            for t in self.factor:
                ternary = ternarize(weight, t)
                sums = activation @ ternary
                V = float(ternary.square().mean())
                rows.append(
                    {
                        "weights": kind,
                        "factor": t,
                        "V(w)": V,
                        "(4)": paper_variance(t),
                        "refined V(w)": paper_variance(t) if kind == "uniform" else normal_variance(t),
                        "sums": float(sums.var(0, unbiased=False).mean()) / K,
                        "(6)": paper_sum_variance(paper_variance(t)),
                        "refined sums": sum_variance(
                            paper_variance(t) if kind == "uniform" else normal_variance(t)
                        ),
                    }
                )
                progress(len(rows) / (2 * len(self.factor)))
        table = pd.DataFrame(rows)
        remarks = (
            "Equation (4) holds for uniform weights; normal ones have erfc(t/√π), 0.577 at t = 0.7.",
            f"Equation (6): measured σ̂² is {(table.sums / (table['V(w)'] / 2)).mean():.3f} times ½·K·V(w̃), "
            f"since the batch mean takes the ReLU's mean away (1 − 1/π = {1 - 1 / math.pi:.3f}).",
        )
        caption = "Left: V(w̃) against t. Right: σ̂²/K behind a ReLU. Circles and squares: measured."
        return Findings(table, lambda figure: _draw(figure, table), caption, remarks, (8.0, 3.4))


def _draw(figure: Figure, table: pd.DataFrame) -> None:
    panels = figure.subplots(1, 2)
    columns = (("V(w)", "(4)", "refined V(w)"), ("sums", "(6)", "refined sums"))
    for axes, (measured, paper, refined) in zip(panels, columns, strict=True):
        for (kind, part), marker, color in zip(
            table.groupby("weights"), "so", ("#0072B2", "#000000"), strict=True
        ):
            axes.plot(part.factor, part[refined], "-", color=color)
            axes.plot(part.factor, part[measured], marker, color=color, linestyle="none", label=kind)
        axes.plot(
            table.factor[: len(part)],
            table[paper][: len(part)],
            "--",
            color="#D55E00",
            label=f"equation {paper}",
        )
        axes.set_xlabel("t = Δ/E|w|")
        axes.set_ylabel("V(w̃)" if measured == "V(w)" else "σ̂²/K")
        axes.legend(frameon=False, fontsize=8)
