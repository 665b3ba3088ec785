"""The toy problem of Li et al. (2017): where SR and BC spend their time as the learning rate shrinks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pydantic import Field

from qlstm_bench.theory.experiment import Experiment, Findings, Positive, Progress
from qlstm_bench.theory.rounded_training.descent import Array
from qlstm_bench.theory.rounded_training.lattice import MINIMIZERS, Lattice
from qlstm_bench.theory.rounded_training.markov import (
    limit_matrix,
    rates,
    stationary,
    total_variation,
    transition_matrix,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def at_minimizers(axis: Array, delta: float) -> Array:
    """Return which grid points are nearer than Δ to a local minimum: those that BC uses in the end, ``(n,)``.

    BC's real weight rests at the minimum, or at the middle of its two neighbours on the grid.
    """
    distance = np.abs(axis[:, None] - np.array(MINIMIZERS))
    return np.asarray((distance < delta * (1 - 1e-9)).any(1))


class ToyHistograms(Experiment):
    """Histograms of the quantized weight on three quadratic wells, while the learning rate α shrinks.

    f(w) = w² + 2 (w < 1), (w − 2.5)² + 0.75 (1 ≤ w < 3.5), (w − 4.75)² + 0.19 (w ≥ 3.5); gradient noise N(0,
    σ²)

    SR: the share of time tends to π̃ of theorem 5, which does not depend on α any more: it stagnates.
    BC: the share at the minima's grid neighbours tends to 1: it concentrates.

    Each rate goes on from where the one before ended.
    Source: Li et al. 2017, arXiv:1706.02379; the poster does not print its function.
    """

    rate: tuple[Positive, ...] = Field(
        default=(1.0, 0.1, 0.01, 0.001), description="α, in the order of their use"
    )
    delta: float = Field(default=0.5, ge=0.1, le=2, description="Δ, distance of grid points")
    noise: float = Field(default=2.0, gt=0, description="σ, standard deviation of the gradient")
    steps: int = Field(default=1_000_000, ge=100, le=100_000_000, description="iterations per rate and chain")
    chains: int = Field(default=16, ge=1, description="independent chains")

    def run(self, progress: Progress = lambda share: None) -> Findings:
        """Collect the histograms of both methods."""
        lattice = Lattice(self.delta, self.noise)
        limit = stationary(limit_matrix(rates(lattice)))
        near = at_minimizers(lattice.axis, self.delta)
        rows, shown = [], {}
        for number, method in enumerate(("SR", "BC")):
            rng = np.random.default_rng([self.seed, number])
            weights = rng.choice(lattice.points, self.chains)
            before: Array | None = None
            for step, alpha in enumerate(self.rate):
                share, weights = lattice.walk(alpha, self.steps, rng, weights, binary_connect=method == "BC")
                exact = stationary(transition_matrix(lattice, alpha))
                rows.append(
                    {
                        "method": method,
                        "rate": alpha,
                        "share at minima": float(share[near].sum()),
                        "predicted": float(limit[near].sum()) if method == "SR" else 1.0,
                        "mean f": float(share @ lattice.value),
                        "TV to the rate before": np.nan if before is None else total_variation(share, before),
                        "TV to exact chain": total_variation(share, exact) if method == "SR" else np.nan,
                        "TV to limit": total_variation(share, limit) if method == "SR" else np.nan,
                    }
                )
                shown[method, alpha] = before = share
                progress((number + (step + 1) / len(self.rate)) / 2)
        table = pd.DataFrame(rows)
        last = table[table.rate == self.rate[-1]].set_index("method")["share at minima"]
        remarks = (
            f"Time at the minima's neighbours at the last rate: BC {last['BC']:.3f}, SR {last['SR']:.3f} "
            f"(predicted {limit[near].sum():.3f}).",
        )
        caption = "Shares of time at each grid point; the line over SR's is the limit distribution π̃."
        return Findings(
            table,
            lambda figure: _draw(figure, lattice.axis, shown, limit, self.rate),
            caption,
            remarks,
            (9.0, 4.2),
        )


def _draw(
    figure: Figure,
    axis: Array,
    shown: dict[tuple[str, float], Array],
    limit: Array,
    rate: tuple[Positive, ...],
) -> None:
    panels = figure.subplots(2, len(rate), sharex=True, sharey="row", squeeze=False)
    width = axis[1] - axis[0]
    for row, (method, color) in zip(panels, (("SR", "#0072B2"), ("BC", "#D55E00")), strict=True):
        for axes, alpha in zip(row, rate, strict=True):
            axes.bar(axis, shown[method, alpha], width=0.8 * width, color=color)
            if method == "SR":
                axes.plot(axis, limit, "-", color="#000000", linewidth=1)
            axes.set_title(f"{method}, α = {alpha:g}", loc="left", fontsize=9)
        row[0].set_ylabel("share of time")
    for axes in panels[-1]:
        axes.set_xlabel("w")
