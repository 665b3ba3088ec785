"""Convex problems of Li et al. (2017): least squares and logistic regression with rounded weights."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pydantic import Field

from qlstm_bench.theory.experiment import Count, Experiment, Findings, Positive, Progress
from qlstm_bench.theory.rounded_training import convex_bounds
from qlstm_bench.theory.rounded_training.descent import METHODS, Array, Descent, Problem, descend
from qlstm_core.kernels.compile import compiled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@compiled()
def noisy_least_squares(arrays: Any, w: Any, rng: Any, out: Any) -> None:
    """Write ``g_j = h_j·(w_j − w*_j) ± σ/√d``: the sign is drawn anew for each weight and step."""
    curvature, minimizer, noise = arrays
    for j in range(w.size):
        sign = 1.0 if rng.random() < 0.5 else -1.0
        out[j] = curvature[j] * (w[j] - minimizer[j]) + sign * noise[0]


@compiled()
def sampled_logistic(arrays: Any, w: Any, rng: Any, out: Any) -> None:
    """Write ``g = −y_i·x_i·σ(−y_i·x_iᵀw) + λw`` for one row i, drawn uniformly; given are rows y_i·x_i."""
    rows, strength = arrays
    i = int(rng.random() * rows.shape[0])
    margin = 0.0
    for j in range(w.size):
        margin += rows[i, j] * w[j]
    slope = 1.0 / (1.0 + math.exp(margin))
    for j in range(w.size):
        out[j] = strength[0] * w[j] - slope * rows[i, j]


def least_squares(dimension: int, condition: float, noise: float, rng: np.random.Generator) -> Problem:
    """Return ``F(w) = ½·Σ h_j (w_j − w*_j)²``, h from 1 to ``condition``: least squares in its axes.

    Args:
        dimension: d.
        condition: largest over smallest curvature.
        noise: σ, the norm of the gradient's noise.
        rng: draws w*, of norm below 1.
    """
    curvature = np.geomspace(1.0, condition, dimension)
    minimizer = rng.uniform(-1, 1, dimension) / math.sqrt(dimension)
    return Problem(
        gradient=noisy_least_squares,
        arrays=(curvature, minimizer, np.array([noise / math.sqrt(dimension)])),
        excess=lambda w: ((w - minimizer) ** 2 @ curvature) / 2,
        minimizer=minimizer,
        hessian=np.diag(curvature),
        convexity=1.0,
        hessian_lipschitz=0.0,
    )


def logistic(dimension: int, strength: float, rows: int, rng: np.random.Generator) -> Problem:
    """Return ``F(w) = mean_i log(1 + exp(−y_i·x_iᵀw)) + λ/2·‖w‖²`` of random rows with ``‖x_i‖ = 1``.

    L2 = 1/(6√3), the largest third derivative of log(1 + eᶻ).

    Args:
        dimension: d.
        strength: λ, which is μ.
        rows: number of rows of data.
        rng: draws features ±1/√d and labels from a logistic model.
    """
    features = rng.choice([-1.0, 1.0], (rows, dimension)) / math.sqrt(dimension)
    truth = rng.normal(0, 4, dimension)
    labels = np.where(rng.random(rows) < 1 / (1 + np.exp(-features @ truth)), 1.0, -1.0)
    signed = features * labels[:, None]

    def value(w: Array) -> Array:
        loss: Array = np.logaddexp(0, -w @ signed.T).mean(-1) + strength / 2 * (w**2).sum(-1)
        return loss

    w = np.zeros(dimension)
    for _ in range(50):  # Newton: quadratic convergence, machine precision after less than ten
        slope = 1 / (1 + np.exp(signed @ w))
        hessian = (signed.T * (slope * (1 - slope))) @ signed / rows + strength * np.eye(dimension)
        w -= np.linalg.solve(hessian, strength * w - slope @ signed / rows)
    least = value(w)
    return Problem(
        gradient=sampled_logistic,
        arrays=(signed, np.array([strength])),
        excess=lambda points: value(points) - least,
        minimizer=w,
        hessian=hessian,
        convexity=strength,
        hessian_lipschitz=1 / (6 * math.sqrt(3)),
    )


class _Convex(Experiment):
    delta: tuple[Positive, ...] = Field(default=(0.05, 0.1, 0.2), description="Δ, distance of grid points")
    dimensions: tuple[Count, ...] = Field(default=(4, 16, 64), description="d, number of weights")
    steps: int = Field(default=20_000, ge=10, le=10_000_000, description="T, descent steps")
    chains: int = Field(default=32, ge=2, description="independent repetitions")

    @abstractmethod
    def problem(self, dimension: int, rng: np.random.Generator) -> Problem:
        """Return the problem of a dimension."""

    def run(self, progress: Progress = lambda share: None) -> Findings:
        """Run every method for each Δ and d."""
        rows = []
        cases = [(d, delta, method) for d in self.dimensions for delta in self.delta for method in METHODS]
        for number, (d, delta, method) in enumerate(cases):
            rng = np.random.default_rng([self.seed, d])  # one problem, and one noise, for every Δ and method
            problem = self.problem(d, rng)
            descent = descend(problem, method, delta, steps=self.steps, chains=self.chains, rng=rng)
            rows.append({"d": d, "delta": delta, "method": method, **_row(problem, descent, method, delta)})
            progress((number + 1) / len(cases))
        table = pd.DataFrame(rows)
        caption = (
            "Error of the averaged iterate against Δ. Circles: SR measured; line through them: predicted "
            "floor; dashed: theorem 1's bound. Triangles: BC (filled) and BC-SQ (open) measured; dotted: "
            "theorem 4's bound. Crosses: R."
        )
        return Findings(table, _draw(table), caption, _remarks(table))


class LeastSquares(_Convex):
    """Strongly convex least squares, ``F(w) = ½·Σ h_j (w_j − w*_j)²``, with noisy gradients.

    Theorem 1 (SR):  E F(w̄) − F(w*) ≤ (1 + log(T+1))·G²/(2μT) + √d·Δ·G/2
    Theorem 4 (BC):  the same with the floor D·L2·√d·Δ/2, which is 0 here: L2 = 0
    Exactly, for SR: mean ⟨∇F(w), w − w*⟩ = (Δ/2)·E‖g‖₁, and F(w̄) − F(w*) → (Δ/4)·Σ E|g_j|·μ/(μ + h_j)
    R stands still once max|g_j|/(μ(t+1)) < Δ/2.

    Constants G, E|g_j| and D are the run's own; all else is the formula.
    Source: Li et al. 2017, arXiv:1706.02379, theorems 1 and 4.
    """

    noise: float = Field(default=1.0, gt=0, description="σ, norm of the gradient's noise")
    condition: float = Field(default=1.0, ge=1, description="largest over smallest curvature")

    def problem(self, dimension: int, rng: np.random.Generator) -> Problem:
        """Return the quadratic of a dimension."""
        return least_squares(dimension, self.condition, self.noise, rng)


class Logistic(_Convex):
    """ℓ2-regularised logistic regression on random ±1/√d features, one row per step.

    F(w) = mean_i log(1 + exp(−y_i·x_iᵀw)) + μ/2·‖w‖²,  ‖x_i‖ = 1,  L2 = 1/(6√3)

    Theorem 1 (SR):  E F(w̄) − F(w*) ≤ (1 + log(T+1))·G²/(2μT) + √d·Δ·G/2
    Theorem 4 (BC):  the same with the floor D·L2·√d·Δ/2
    Exactly, for SR: mean ⟨∇F(w), w − w*⟩ = (Δ/2)·E‖g‖₁; to second order around w*, with H the Hessian there,
    F(w̄) − F(w*) → ½·tr(H (H/μ + 1)⁻¹ C),  HC + CH = Δ·diag(E|g|)

    Constants G, E|g_j| and D are the run's own; all else is the formula.
    Source: Li et al. 2017, arXiv:1706.02379, theorems 1 and 4.
    """

    strength: float = Field(default=0.1, gt=0, description="μ, strength of the ℓ2 regulariser")
    rows: int = Field(default=256, ge=2, description="rows of data")

    def problem(self, dimension: int, rng: np.random.Generator) -> Problem:
        """Return the regression of a dimension."""
        return logistic(dimension, self.strength, self.rows, rng)


def _row(problem: Problem, descent: Descent, method: str, delta: float) -> dict[str, float]:
    """Return prediction and measurement of one case."""
    d, steps = problem.minimizer.size, descent.square_norm.size
    errors = problem.excess(descent.used_mean)
    magnitude = descent.magnitude.mean(0)
    G, mu = descent.gradient_bound, problem.convexity
    row = {
        "error": errors.mean(),
        "stderr": errors.std(ddof=1) / math.sqrt(errors.size),
        "predicted": math.nan,
        "bound": math.nan,
        "G": G,
        "pairing": descent.pairing.mean(),
        "predicted pairing": math.nan,
        "last move": descent.last_move.max(),
        "predicted last move": math.nan,
    }
    if method == "SR":
        row["predicted"] = convex_bounds.averaged_floor(delta, magnitude, problem.hessian, mu)
        row["bound"] = convex_bounds.theorem_1(G, mu, steps, d, delta)
        row["predicted pairing"] = convex_bounds.balance(delta, magnitude)
    elif method == "R":
        row["predicted last move"] = convex_bounds.last_move(descent.largest, mu, delta)
    else:
        row["bound"] = convex_bounds.theorem_4(
            G, mu, steps, d, delta, descent.distance, problem.hessian_lipschitz
        )
        if problem.hessian_lipschitz == 0:
            row["predicted"] = 0.0
    return row


def _remarks(table: pd.DataFrame) -> tuple[str, ...]:
    stochastic, bc = (table[table.method == method].reset_index() for method in ("SR", "BC"))
    floor, tightness, gain = (
        stochastic.error / stochastic.predicted,
        stochastic.bound / stochastic.error,
        (stochastic.error / bc.error),
    )
    return (
        f"SR: measured over predicted floor {floor.min():.2f} to {floor.max():.2f}; theorem 1's bound is "
        f"{tightness.min():.1f} to {tightness.max():.1f} times the error.",
        f"BC: the error is {gain.min():.0f} to {gain.max():.0f} times smaller than SR's.",
        f"Cases with a bound: {int(table.bound.notna().sum())}; beyond it: "
        f"{int((table.error > table.bound).sum())}.",
    )


def _draw(table: pd.DataFrame) -> Callable[[Figure], None]:
    def draw(figure: Figure) -> None:
        dimensions = list(dict.fromkeys(table.d))
        panels = figure.subplots(1, len(dimensions), sharey=True, squeeze=False)[0]
        for axes, d in zip(panels, dimensions, strict=True):
            part = {method: table[(table.d == d) & (table.method == method)] for method in METHODS}
            axes.set_title(f"d = {d}", loc="left", fontsize=10)
            SR, BC = part["SR"], part["BC"]
            axes.loglog(SR.delta, SR.bound, "--", color="#0072B2", label="theorem 1 (SR)")
            axes.loglog(SR.delta, SR.predicted, "-", color="#0072B2", label="SR predicted")
            axes.loglog(SR.delta, SR.error, "o", color="#0072B2", label="SR")
            axes.loglog(BC.delta, BC.bound, ":", color="#D55E00", label="theorem 4 (BC)")
            axes.loglog(BC.delta, BC.error, "^", color="#D55E00", label="BC")
            axes.loglog(
                part["BC-SQ"].delta, part["BC-SQ"].error, "^", mfc="none", color="#D55E00", label="BC-SQ"
            )
            axes.loglog(part["R"].delta, part["R"].error, "x", color="#000000", label="R")
            axes.set_xlabel("Δ")
        panels[0].set_ylabel("F(w̄) − F(w*)")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8
        )

    return draw
