"""Gradient descent with rounded weights on convex problems: many chains in one compiled loop.

Methods of Li et al. 2017, "Training quantized nets", arXiv:1706.02379, with step size ``α_t = 1/(μ(t+1))``:

- R:     ``w ← Q_d(w − α g(w))``
- SR:    ``w ← Q_s(w − α g(w))``
- BC:    ``v ← v − α g(w)``, ``w = Q_d(v)``
- BC-SQ: the same with ``w = Q_s(v)``, whose error has mean zero, as theorem 4's proof needs it
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qlstm_bench.theory.rounded_training.grid_rounding import nearest_index, stochastic_index
from qlstm_core.kernels.compile import compiled

Array = NDArray[np.float64]

METHODS = {"R": 0, "SR": 1, "BC": 2, "BC-SQ": 3}
"""Method to its number in the compiled loop."""


@dataclass(frozen=True)
class Problem:
    """A strongly convex function and its stochastic gradient.

    Args:
        gradient: compiled ``(arrays, w, rng, out)``: writes a stochastic gradient at w, ``(d,)``, to ``out``.
        arrays: what ``gradient`` reads, all float64.
        excess: ``F(w) − F(w*)`` of rows ``(n, d)``, as ``(n,)``.
        minimizer: w*, ``(d,)``.
        hessian: Hessian of F at w*, ``(d, d)``.
        convexity: μ.
        hessian_lipschitz: L2.
    """

    gradient: Callable[..., None]
    arrays: tuple[Array, ...]
    excess: Callable[[Array], Array]
    minimizer: Array
    hessian: Array
    convexity: float
    hessian_lipschitz: float


@dataclass(frozen=True)
class Descent:
    """What several chains measured over steps t = 0 … T − 1.

    Args:
        used_mean: mean over time of the rounded weights w, ``(chains, d)``: the averaged iterate w̄.
        real_mean: the same of v, BC's real weights; for R and SR equal to ``used_mean``.
        magnitude: mean of |g_j|, ``(chains, d)``.
        pairing: mean of ⟨g, v − w*⟩, ``(chains,)``.
        square_norm: mean over the chains of ‖g‖² at each step, ``(T,)``.
        distance: largest ‖v − w*‖ of any chain at any step.
        largest: largest |g_j| of any chain, ``(T,)``.
        last_move: the last step at which a weight moved to another grid point, ``(chains,)``; −1 if none did.
    """

    used_mean: Array
    real_mean: Array
    magnitude: Array
    pairing: Array
    square_norm: Array
    distance: float
    largest: Array
    last_move: NDArray[np.int64]

    @property
    def gradient_bound(self) -> float:
        """G: the square root of the largest mean of ‖g‖² at any step."""
        return float(np.sqrt(self.square_norm.max()))


def descend(
    problem: Problem,
    method: str,
    delta: float,
    *,
    steps: int,
    chains: int,
    rng: np.random.Generator,
    start: Array | None = None,
) -> Descent:
    """Run a method on a problem from ``start``, or zero, and return what it measured.

    Args:
        problem: what to minimise.
        method: one of :data:`METHODS`.
        delta: Δ, distance of the grid's points.
        steps: T.
        chains: independent repetitions.
        rng: source of randomness; left further on.
        start: first weights, ``(d,)``, rounded to the grid.
    """
    first = np.zeros_like(problem.minimizer) if start is None else start
    loop = _loop(problem.gradient)
    sums = loop(
        problem.arrays,
        problem.minimizer,
        problem.convexity,
        first,
        delta,
        METHODS[method],
        steps,
        chains,
        rng,
    )
    used, real, magnitude, pairing, square_norm, distance, largest, last_move = sums
    return Descent(
        used / steps,
        real / steps,
        magnitude / steps,
        pairing / steps,
        square_norm / chains,
        distance,
        largest,
        last_move,
    )


@cache
def _loop(gradient: Callable[..., None]) -> Callable[..., Any]:
    """Return the loop over chains and steps, compiled for one gradient."""

    @compiled(gradient.__name__)
    def loop(
        arrays: Any,
        minimizer: Any,
        convexity: float,
        start: Any,
        delta: float,
        method: int,
        steps: int,
        chains: int,
        rng: Any,
    ) -> Any:
        d = minimizer.size
        used_sum, real_sum = np.zeros((chains, d)), np.zeros((chains, d))
        magnitude, pairing = np.zeros((chains, d)), np.zeros(chains)
        square_norm, largest = np.zeros(steps), np.zeros(steps)
        last_move = np.full(chains, -1, dtype=np.int64)
        farthest = 0.0
        index, used, real, g = np.empty(d), np.empty(d), np.empty(d), np.empty(d)
        for chain in range(chains):
            for j in range(d):
                index[j] = nearest_index(start[j] / delta)
                real[j] = start[j] if method >= 2 else delta * index[j]
            for t in range(steps):
                for j in range(d):
                    used[j] = delta * index[j]
                gradient(arrays, used, rng, g)
                rate = 1.0 / (convexity * (t + 1))
                distance = 0.0
                for j in range(d):
                    error = real[j] - minimizer[j]
                    used_sum[chain, j] += used[j]
                    real_sum[chain, j] += real[j]
                    magnitude[chain, j] += abs(g[j])
                    largest[t] = max(largest[t], abs(g[j]))
                    pairing[chain] += g[j] * error
                    square_norm[t] += g[j] * g[j]
                    distance += error * error
                    if method >= 2:
                        real[j] -= rate * g[j]
                        ratio = real[j] / delta
                    else:
                        ratio = index[j] - rate * g[j] / delta
                    if method == 1 or method == 3:
                        new = stochastic_index(ratio, rng.random())
                    else:
                        new = nearest_index(ratio)
                    if new != index[j]:
                        last_move[chain] = t
                    index[j] = new
                    if method < 2:
                        real[j] = delta * new
                farthest = max(farthest, distance)
        return used_sum, real_sum, magnitude, pairing, square_norm, np.sqrt(farthest), largest, last_move

    return loop
