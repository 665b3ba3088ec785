"""Stochastic rounding as a Markov chain: theorem 5 of Li et al. (2017)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator

from qlstm_bench.theory.experiment import Experiment, Findings, Positive, Progress
from qlstm_bench.theory.rounded_training.descent import Array
from qlstm_bench.theory.rounded_training.lattice import Lattice

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def rates(lattice: Lattice) -> Array:
    """Return U, ``(states, states)``: U(x, x ± Δe_k) = ∫ p(z)·|z|/Δ dz over the gradients that push that way.

    A positive gradient lowers the weight: the printed U has the two integrals the other way round.

    Args:
        lattice: with gradients N(m, σ²), for which ``E max(g, 0) = σφ(m/σ) + mΦ(m/σ)``.
    """
    return _neighbours(lattice, positive_part(lattice.slope, lattice.noise) / lattice.delta,
                       positive_part(-lattice.slope, lattice.noise) / lattice.delta)  # fmt: skip


def limit_matrix(rate: Array) -> Array:
    """Return ``T̃ = I − α₀·diag(U·1) + α₀·U``, α₀ the largest that leaves no entry below 0.

    Args:
        rate: U, rows from x to y.
    """
    leaving = rate.sum(1)
    largest = 1 / leaving.max()
    matrix: Array = np.eye(len(rate)) - largest * np.diag(leaving) + largest * rate
    return matrix


def transition_matrix(lattice: Lattice, rate: float) -> Array:
    """Return T_α exactly, jumps over several points included, ``(states, states)``, rows from x to y.

    SR goes from x to y with probability ``E max(0, 1 − |x − αg − y|/Δ)``: the mean of a triangle around y,
    which is a second difference in k of ``E max(u − k, 0)``, u ~ N(x − αm, α²σ²).

    Args:
        lattice: box and gradients; what would leave the box stays at its border.
        rate: α.
    """
    axis, delta = lattice.axis, lattice.delta
    deviation = rate * lattice.noise
    product = np.ones((len(lattice.points), 1))
    for k in range(lattice.dimension):
        mean = lattice.points[:, k] - rate * lattice.slope[:, k]
        knots = np.concatenate([[axis[0] - delta], axis, [axis[-1] + delta]])
        ramp = positive_part(mean[:, None] - knots[None, :], deviation) / delta
        triangle = ramp[:, :-2] - 2 * ramp[:, 1:-1] + ramp[:, 2:]
        # The border points also take what lies beyond them: their triangles become half-open plateaus.
        triangle[:, 0] = 1 - (ramp[:, 1] - ramp[:, 2])
        triangle[:, -1] = ramp[:, -3] - ramp[:, -2]
        triangle = np.maximum(triangle, 0)  # differences of large numbers leave ±1e-16 where nothing goes
        product = (product[:, :, None] * triangle[:, None, :]).reshape(len(mean), -1)
    return product


def stationary(matrix: Array) -> Array:
    """Return π with ``π·T = π`` and sum 1, by elimination without subtraction: tiny shares keep their digits.

    Args:
        matrix: transition matrix of an irreducible chain, whose rows sum to 1.

    Source: Grassmann, Taksar, Heyman 1985, "Regenerative analysis and steady state distributions for Markov
        chains".
    """
    work = matrix.copy()
    for state in range(len(work) - 1, 0, -1):
        work[:state, state] /= work[state, :state].sum()
        work[:state, :state] += np.outer(work[:state, state], work[state, :state])
    pi = np.ones(len(work))
    for state in range(1, len(work)):
        pi[state] = pi[:state] @ work[:state, state]
    share: Array = pi / pi.sum()
    return share


def total_variation(p: Array, q: Array) -> float:
    """Return ``½·Σ|p − q|``: 0 for equal distributions, 1 for those without a common point."""
    return float(np.abs(p - q).sum() / 2)


def relative_transitions(lattice: Lattice, matrix: Array) -> Array:
    """Return, for each inner point and axis, the share of moves up among moves to the axis's neighbours.

    Args:
        lattice: the points of ``matrix``.
        matrix: T_α, or U.
    """
    shares = []
    for k, stride in enumerate(_strides(lattice)):
        inner = _inner(lattice, k)
        up, down = matrix[inner, inner + stride], matrix[inner, inner - stride]
        shares.append(up / (up + down))
    return np.concatenate(shares)


def positive_part(mean: Array, deviation: float) -> Array:
    """Return ``E max(u, 0) = sφ(m/s) + mΦ(m/s)`` for u ~ N(m, s²), elementwise."""
    ratio = mean / deviation
    density = np.exp(-(ratio**2) / 2) / math.sqrt(2 * math.pi)
    below = torch.special.ndtr(torch.from_numpy(np.ascontiguousarray(ratio))).numpy()
    part: Array = deviation * density + mean * below
    return part


def _strides(lattice: Lattice) -> list[int]:
    return [lattice.axis.size ** (lattice.dimension - 1 - k) for k in range(lattice.dimension)]


def _inner(lattice: Lattice, k: int) -> NDArray[np.intp]:
    """Return the states that have both neighbours along axis k."""
    position = np.arange(len(lattice.points)) // _strides(lattice)[k] % lattice.axis.size
    return np.flatnonzero((position > 0) & (position < lattice.axis.size - 1))


def _neighbours(lattice: Lattice, down: Array, up: Array) -> Array:
    """Return the matrix with given entries to the neighbours on each axis, ``(states, dimension)`` each."""
    states = np.arange(len(lattice.points))
    matrix = np.zeros((states.size, states.size))
    for k, stride in enumerate(_strides(lattice)):
        position = states // stride % lattice.axis.size
        higher, lower = states[position < lattice.axis.size - 1], states[position > 0]
        matrix[higher, higher + stride] = up[higher, k]
        matrix[lower, lower - stride] = down[lower, k]
    return matrix


class MarkovLimit(Experiment):
    """Stochastic rounding at a fixed rate α is a Markov chain; a smaller α slows it down, and that is all.

    U(x, x + Δe_k) = ∫_{g<0} p(g)·|g|/Δ dg,  U(x, x − Δe_k) = ∫_{g>0} p(g)·g/Δ dg,  0 otherwise
    T̃ = I − α₀·diag(U·1) + α₀·U,  π̃·T̃ = π̃,  lim_{α→0} π_α = π̃ (theorem 5)
    T_α(x, x + Δ)/(T_α(x, x − Δ) + T_α(x, x + Δ)) → U(x, x + Δ)/(U(x, x − Δ) + U(x, x + Δ))

    π̃ is positive everywhere: SR does not concentrate on minimisers. The function has three quadratic wells
    per coordinate; in two dimensions κ/2·(w_1 − w_2)² couples them.
    Source: Li et al. 2017, arXiv:1706.02379, theorem 5.
    """

    rate: tuple[Positive, ...] = Field(default=(0.3, 0.1, 0.03, 0.01, 0.003), description="α, learning rate")
    delta: float = Field(default=0.5, ge=0.1, le=2, description="Δ, distance of grid points")
    noise: float = Field(default=2.0, gt=0, description="σ, standard deviation of the gradient")
    dimensions: tuple[int, ...] = Field(default=(1, 2), description="d, number of weights: 1, 2, or both")
    steps: int = Field(default=400_000, ge=100, le=100_000_000, description="steps of each chain")
    chains: int = Field(default=32, ge=1, description="independent chains")

    @field_validator("dimensions")
    @classmethod
    def _one_or_two(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not set(value) <= {1, 2}:
            raise ValueError("expected 1, 2 or 1,2")
        return value

    def run(self, progress: Progress = lambda share: None) -> Findings:
        """Compare T_α, T̃ and a simulation for each α."""
        rows = []
        shown: dict[float, Array] = {}
        for number, d in enumerate(self.dimensions):
            lattice = Lattice(self.delta, self.noise, d)
            rate = rates(lattice)
            limit = stationary(limit_matrix(rate))
            wanted = relative_transitions(lattice, rate)
            rng = np.random.default_rng([self.seed, d])
            start = rng.choice(lattice.points, self.chains, p=limit)
            for step, alpha in enumerate(self.rate):
                matrix = transition_matrix(lattice, alpha)
                exact = stationary(matrix)
                simulated, start = lattice.walk(alpha, self.steps, rng, start)
                rows.append(
                    {
                        "d": d,
                        "rate": alpha,
                        "TV(simulated, exact)": total_variation(simulated, exact),
                        "TV(exact, limit)": total_variation(exact, limit),
                        "TV(simulated, limit)": total_variation(simulated, limit),
                        "largest change of relative probability": float(
                            np.abs(relative_transitions(lattice, matrix) - wanted).max()
                        ),
                        "mean f": float(simulated @ lattice.value),
                        "predicted mean f": float(limit @ lattice.value),
                        "least π̃": float(limit.min()),
                    }
                )
                if d == 1:
                    shown[alpha] = simulated
                progress((number + (step + 1) / len(self.rate)) / len(self.dimensions))
        table = pd.DataFrame(rows)
        last = table[table.rate == min(self.rate)]
        remarks = (
            "At the smallest rate: total variation between simulation and limit "
            + ", ".join(
                f"{value:.3f} (d = {d})"
                for d, value in zip(last.d, last["TV(simulated, limit)"], strict=True)
            )
            + "; every state keeps a positive probability.",
            "As printed, U pairs x + Δ with positive gradients, which lower the weight; "
            "read so, π̃ favours maxima. "
            "Its diag(1ᵀU) sums columns: with rows from x to y it must sum rows.",
        )
        caption = (
            "Left: shares of time at each grid point in one dimension, and π̃ (line). "
            "Right: distance to π̃ as α shrinks."
        )
        lattice = Lattice(self.delta, self.noise, 1)
        limit = stationary(limit_matrix(rates(lattice)))
        return Findings(
            table, lambda figure: _draw(figure, table, lattice.axis, limit, shown), caption, remarks
        )


def _draw(figure: Figure, table: pd.DataFrame, axis: Array, limit: Array, shown: dict[float, Array]) -> None:
    left, right = figure.subplots(1, 2)
    left.plot(axis, limit, "-", color="#000000", label="π̃")
    for (alpha, share), marker in zip(shown.items(), "osv^dPX*" * len(shown), strict=False):
        left.plot(axis, share, marker, markersize=4, linestyle="none", label=f"α = {alpha:g}")
    left.set_xlabel("w")
    left.set_ylabel("share of time")
    for d, part in table.groupby("d"):
        right.loglog(part.rate, part["TV(exact, limit)"], "-o", label=f"exact T_α, d = {d}")
        right.loglog(part.rate, part["TV(simulated, limit)"], "x", label=f"simulated, d = {d}")
        right.loglog(
            part.rate,
            part["largest change of relative probability"],
            ":",
            label=f"relative probability, d = {d}",
        )
    right.set_xlabel("α")
    right.set_ylabel("distance to the limit")
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=7)
