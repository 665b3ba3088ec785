"""Where theorem 4 of Li et al. (2017) and BinaryConnect part: one weight is enough to see it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field

from qlstm_bench.theory.experiment import Experiment, Findings, Positive, Progress
from qlstm_bench.theory.rounded_training import convex_bounds
from qlstm_bench.theory.rounded_training.convex import noisy_least_squares
from qlstm_bench.theory.rounded_training.descent import Array, Problem, descend
from qlstm_core.kernels.compile import compiled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@compiled()
def coin_gradient(arrays: Any, w: Any, rng: Any, out: Any) -> None:
    """Write ``F'(w) = c·(σ(c·w) − π) + λc²·w``; nothing is drawn."""
    (constants,) = arrays
    scale, share, strength = constants
    out[0] = scale * (1.0 / (1.0 + math.exp(-scale * w[0])) - share) + strength * scale * scale * w[0]


def coin(share: float, strength: float, scale: float) -> Problem:
    """Return logistic regression on a constant: ``π·log(1 + e^{−cw}) + (1 − π)·log(1 + e^{cw}) + λ/2·(cw)²``.

    Args:
        share: π, of positive labels.
        strength: λ.
        scale: c, the feature; a weight in other units, cw, meets the same function.
    """

    def value(u: Array) -> Array:
        loss: Array = (
            share * np.logaddexp(0, -u) + (1 - share) * np.logaddexp(0, u) + strength / 2 * u**2
        ).sum(-1)
        return loss

    u = 0.0
    for _ in range(50):
        sigmoid = 1 / (1 + math.exp(-u))
        curvature = sigmoid * (1 - sigmoid) + strength
        u -= (sigmoid - share + strength * u) / curvature
    least = value(np.array([u]))
    return Problem(
        gradient=coin_gradient,
        arrays=(np.array([scale, share, strength]),),
        excess=lambda points: value(scale * points) - least,
        minimizer=np.array([u / scale]),
        hessian=np.array([[curvature * scale**2]]),
        convexity=strength * scale**2,
        hessian_lipschitz=scale**3 / (6 * math.sqrt(3)),
    )


def parabola(minimizer: float) -> Problem:
    """Return ``F(w) = ½·(w − w*)²`` of one weight, with its exact gradient."""
    w = np.array([minimizer])
    return Problem(
        gradient=noisy_least_squares,
        arrays=(np.ones(1), w, np.zeros(1)),
        excess=lambda points: (points - w)[..., 0] ** 2 / 2,
        minimizer=w,
        hessian=np.ones((1, 1)),
        convexity=1.0,
        hessian_lipschitz=0.0,
    )


def secant_root(problem: Problem, delta: float) -> Array:
    """Return where BC's averaged weight ends on one weight: ``a + Δ·F'(a)/(F'(a) − F'(b))``.

    a and b = a + Δ are w*'s neighbours on the grid. The real weight comes to rest where the gradients that it
    is
    given cancel: a share p of the steps is at b, with ``(1 − p)·F'(a) + p·F'(b) = 0``.

    Args:
        problem: problem of one weight, with a gradient without noise.
        delta: Δ.
    """
    below = math.floor(problem.minimizer[0] / delta) * delta
    slopes = []
    for point in (below, below + delta):
        out = np.empty(1)
        problem.gradient(problem.arrays, np.array([point]), np.random.default_rng(0), out)
        slopes.append(out[0])
    return np.array([below + delta * slopes[0] / (slopes[0] - slopes[1])])


def escape_step(distance: float) -> float:
    """Return about when BC leaves the grid point nearest to w*: ``exp(1/(2ρ) − γ)``, γ Euler's constant.

    There its gradient is −ρΔ at every step; the real weight moves by ``ρΔ·(1 + ½ + … + 1/t) ≈ ρΔ·(log t +
    γ)`` and must come Δ/2 far.

    Args:
        distance: ρ, of the minimiser to its nearest grid point, in units of Δ.
    """
    return math.exp(1 / (2 * distance) - np.euler_gamma)


class BinaryConnectFloor(Experiment):
    """BinaryConnect's floor where F is no quadratic: logistic regression on a constant, exact gradient.

    F(w) = π·log(1 + e^{−cw}) + (1 − π)·log(1 + e^{cw}) + λ/2·(cw)²

    Theorem 4:         F(w̄) − F(w*) ≤ (1 + log(T+1))·G²/(2μT) + D·L2·√d·Δ/2
    Its proof's floor: D·L2·d·Δ²/8
    Exactly (d = 1):   w̄ → a + Δ·F'(a)/(F'(a) − F'(b)), a and b = a + Δ the neighbours of w* on the grid

    Measured in other units (c), weights, Δ and D grow by 1/c and L2 by c³: the error stays what it is, and so
    does the proof's floor, but the printed one shrinks with c. Δ is given in units of 1/c.
    Source: Li et al. 2017, arXiv:1706.02379, theorem 4.
    """

    delta: tuple[Positive, ...] = Field(default=(1.0, 2.0, 4.0), description="Δ, in units of 1/c")
    scale: tuple[Positive, ...] = Field(default=(1.0, 0.1, 0.01, 0.001), description="c, the feature's size")
    share: float = Field(default=0.85, gt=0, lt=1, description="π, share of positive labels")
    strength: float = Field(default=0.05, gt=0, description="λ of the regulariser")
    steps: int = Field(default=1_000_000, ge=10, le=10_000_000, description="T, descent steps")
    chains: int = Field(default=4, ge=2, description="independent repetitions")

    def run(self, progress: Progress = lambda share: None) -> Findings:
        """Measure BC and BC-SQ for each Δ and c."""
        cases = [
            (method, delta, scale)
            for method in ("BC", "BC-SQ")
            for delta in self.delta
            for scale in self.scale
        ]
        rows = []
        for number, (method, delta, scale) in enumerate(cases):
            problem = coin(self.share, self.strength, scale)
            step = delta / scale
            rng = np.random.default_rng(self.seed)
            run = descend(problem, method, step, steps=self.steps, chains=self.chains, rng=rng)
            known = (
                run.gradient_bound, problem.convexity, self.steps, 1, step, run.distance,
                problem.hessian_lipschitz,
            )  # fmt: skip
            rows.append(
                {
                    "method": method,
                    "delta": delta,
                    "scale": scale,
                    "error": float(problem.excess(run.used_mean).mean()),
                    "predicted": float(problem.excess(secant_root(problem, step))),
                    "theorem 4": convex_bounds.theorem_4(*known),
                    "corrected": convex_bounds.theorem_4_in_units(*known),
                }
            )
            progress((number + 1) / len(cases))
        table = pd.DataFrame(rows)
        beyond = table[table.error > table["theorem 4"]]
        remarks = (
            f"Beyond the bound as printed: {len(beyond)} of {len(table)} cases, by up to "
            f"{(beyond.error / beyond['theorem 4']).max() if len(beyond) else 0:.3g} times; beyond it with "
            f"the proof's floor: {int((table.error > table['corrected']).sum())}.",
            "D·L2·√d·Δ/2 has the dimension of F over that of w: in some unit it is below any floor.",
        )
        caption = (
            "Error against the unit c of the weights, one panel per Δ. Circles: BC measured; line: the "
            "secant root; dashed: theorem 4 as printed; dotted: with the proof's floor."
        )
        return Findings(table, lambda figure: _draw_floors(figure, table), caption, remarks)


class BinaryConnectTrap(Experiment):
    """BinaryConnect with Q_d on a quadratic, F(w) = ½·(w − ρΔ)²: stuck at a grid point near the minimiser.

    Theorem 4, L2 = 0:  F(w̄) − F(w*) ≤ (1 + log(T+1))·G²/(2μT), without a floor
    Exactly, for Q_d:   w stays at 0 until step exp(1/(2ρ) − γ), with error ½·(ρΔ)² all along

    The theorem needs a rounding error of mean zero: Q_s has it (BC-SQ), Q_d does not. Its floor does vanish,
        as
    corollary 1 says, but only after a time exponential in 1/ρ.
    Source: Li et al. 2017, arXiv:1706.02379, theorem 4 and corollary 1.
    """

    distance: tuple[Annotated[float, Field(gt=0, le=0.5)], ...] = Field(
        default=(0.04, 0.05, 0.06, 0.08, 0.12, 0.25), description="ρ, of w* to the grid, in Δ"
    )
    delta: float = Field(default=1.0, gt=0, description="Δ, distance of grid points")
    steps: int = Field(default=100_000, ge=10, le=10_000_000, description="T, descent steps")
    chains: int = Field(default=16, ge=2, description="independent repetitions of BC-SQ")

    def run(self, progress: Progress = lambda share: None) -> Findings:
        """Measure BC and BC-SQ for each ρ."""
        rows = []
        for number, rho in enumerate(self.distance):
            rng = np.random.default_rng([self.seed, number])
            problem = parabola(rho * self.delta)
            row: dict[str, float] = {"distance": rho, "predicted escape": escape_step(rho)}
            for method in ("BC", "BC-SQ"):
                run = descend(problem, method, self.delta, steps=self.steps, chains=self.chains, rng=rng)
                if method == "BC":
                    moved = np.flatnonzero(run.square_norm != run.square_norm[0])
                    row["escape"] = float(moved[0]) if moved.size else math.nan
                row[f"{method} error"] = float(problem.excess(run.used_mean).mean())
                row[f"{method} bound"] = convex_bounds.theorem_4(
                    run.gradient_bound, 1.0, self.steps, 1, self.delta, run.distance, 0.0
                )
            rows.append(row)
            progress((number + 1) / len(self.distance))
        table = pd.DataFrame(rows)
        worst = (table["BC error"] / table["BC bound"]).max()
        remarks = (
            f"BC with Q_d: up to {worst:.3g} times theorem 4's bound; with Q_s: at most "
            f"{(table['BC-SQ error'] / table['BC-SQ bound']).max():.2f} times.",
        )
        caption = "Left: step at which BC leaves the grid point. Right: error after T steps, and the bound."
        return Findings(table, lambda figure: _draw_trap(figure, table), caption, remarks)


def _draw_floors(figure: Figure, table: pd.DataFrame) -> None:
    deltas = list(dict.fromkeys(table.delta))
    panels = figure.subplots(1, len(deltas), sharey=True, squeeze=False)[0]
    for axes, delta in zip(panels, deltas, strict=True):
        part = table[(table.delta == delta) & (table.method == "BC")]
        axes.set_title(f"Δ = {delta:g}/c", loc="left", fontsize=10)
        axes.loglog(part.scale, part["theorem 4"], "--", color="#D55E00", label="theorem 4")
        axes.loglog(part.scale, part["corrected"], ":", color="#D55E00", label="corrected")
        axes.loglog(part.scale, part.predicted, "-", color="#000000", label="secant root")
        axes.loglog(part.scale, part.error, "o", color="#000000", label="BC")
        axes.set_xlabel("c")
    panels[0].set_ylabel("F(w̄) − F(w*)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)


def _draw_trap(figure: Figure, table: pd.DataFrame) -> None:
    left, right = figure.subplots(1, 2)
    left.semilogy(table.distance, table["predicted escape"], "-", color="#000000", label="exp(1/(2ρ) − γ)")
    left.semilogy(table.distance, table.escape, "o", color="#000000", label="measured")
    left.set_ylabel("step")
    for method, color in (("BC", "#D55E00"), ("BC-SQ", "#0072B2")):
        right.semilogy(table.distance, table[f"{method} error"], "o", color=color, label=method)
        right.semilogy(
            table.distance, table[f"{method} bound"], "--", color=color, label=f"theorem 4 for {method}"
        )
    right.set_ylabel("F(w̄) − F(w*)")
    for axes in (left, right):
        axes.set_xlabel("ρ: distance of w* to the grid, in Δ")
        axes.legend(frameon=False, fontsize=8)
