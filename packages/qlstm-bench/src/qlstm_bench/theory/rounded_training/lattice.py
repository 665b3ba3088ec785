"""Stochastic gradient descent with rounded weights on a finite grid, as a walk over its points."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qlstm_bench.theory.rounded_training.descent import Array
from qlstm_bench.theory.rounded_training.grid_rounding import nearest_index, stochastic_index
from qlstm_core.kernels.compile import compiled

_WELLS = ((0.0, 2.0), (2.5, 0.75), (4.75, 0.19))
_BORDERS = (1.0, 3.5)

MINIMIZERS = tuple(centre for centre, _ in _WELLS)
"""Where the toy function has its local minima; the last is the global one."""


def toy(w: Array) -> Array:
    """Return three quadratic wells: w² + 2 below 1, (w − 2.5)² + 0.75 below 3.5, (w − 4.75)² + 0.19 beyond.

    Args:
        w: weights of any shape.
    """
    pieces = [(w - centre) ** 2 + height for centre, height in _WELLS]
    value: Array = np.select([w < border for border in _BORDERS], pieces[:-1], pieces[-1])
    return value


def toy_slope(w: Array) -> Array:
    """Return the derivative of :func:`toy`, elementwise; at a border that of the well above."""
    pieces = [2 * (w - centre) for centre, _ in _WELLS]
    slope: Array = np.select([w < border for border in _BORDERS], pieces[:-1], pieces[-1])
    return slope


@dataclass(frozen=True)
class Lattice:
    """The points ``Δ·n``, n integer, of a box in one or two dimensions, and a noisy gradient on them.

    ``f(w) = Σ_k toy(w_k) + κ/2·(w_1 − w_2)²`` with gradient noise N(0, σ²), independent in each coordinate.
    Weights that would leave the box stay at its border.

    Args:
        delta: Δ.
        noise: σ.
        dimension: 1 or 2.
        coupling: κ.
        low: lowest coordinate.
        high: highest coordinate.
    """

    delta: float
    noise: float
    dimension: int = 1
    coupling: float = 0.5
    low: float = -2.0
    high: float = 7.0

    @cached_property
    def axis(self) -> Array:
        """Coordinates of the points along one axis, ``(n,)``."""
        first, last = np.ceil(self.low / self.delta), np.floor(self.high / self.delta)
        return self.delta * np.arange(first, last + 1)

    @cached_property
    def points(self) -> Array:
        """All points, ``(n**dimension, dimension)``, the last coordinate fastest."""
        mesh = np.meshgrid(*[self.axis] * self.dimension, indexing="ij")
        return np.stack([part.ravel() for part in mesh], axis=1)

    @cached_property
    def value(self) -> Array:
        """f at each point, ``(states,)``."""
        total: Array = toy(self.points).sum(1)
        if self.dimension == 2:
            total = total + self.coupling / 2 * (self.points[:, 0] - self.points[:, 1]) ** 2
        return total

    @cached_property
    def slope(self) -> Array:
        """Mean gradient at each point, ``(states, dimension)``."""
        slope = toy_slope(self.points)
        if self.dimension == 2:
            difference = self.points[:, 0] - self.points[:, 1]
            slope = slope + self.coupling * np.stack([difference, -difference], axis=1)
        return slope

    def walk(
        self,
        rate: float,
        steps: int,
        rng: np.random.Generator,
        start: Array,
        *,
        binary_connect: bool = False,
    ) -> tuple[Array, Array]:
        """Return how often each point was visited, as shares ``(states,)``, and the last weights.

        Args:
            rate: α, the same at every step.
            steps: number of steps of each chain.
            rng: source of randomness; left further on.
            start: first weights, ``(chains, dimension)``.
            binary_connect: BC, whose last weights are the real ones, instead of SR.
        """
        weights = start.copy()
        counts = _walk(
            self.slope, self.axis.size, self.axis[0], self.delta, self.noise, rate, steps, binary_connect,
            weights, rng,
        )  # fmt: skip
        return counts / counts.sum(), weights


@compiled()
def _walk(
    slope: Any, size: int, low: float, delta: float, noise: float, rate: float, steps: int, keep_real: bool,
    weights: Any, rng: Any,
) -> NDArray[np.int64]:  # fmt: skip
    """Walk each chain on from ``weights``, in place."""
    chains, dimension = weights.shape
    counts = np.zeros(slope.shape[0], dtype=np.int64)
    position = np.empty(dimension)
    real = np.empty(dimension)
    for chain in range(chains):
        for k in range(dimension):
            real[k] = (weights[chain, k] - low) / delta
            position[k] = min(max(nearest_index(real[k]), 0.0), size - 1.0)
        for _ in range(steps):
            state = 0
            for k in range(dimension):
                state = state * size + int(position[k])
            counts[state] += 1
            for k in range(dimension):
                update = rate * (slope[state, k] + noise * rng.standard_normal()) / delta
                if keep_real:
                    real[k] = min(max(real[k] - update, 0.0), size - 1.0)
                    moved = nearest_index(real[k])
                else:
                    moved = stochastic_index(position[k] - update, rng.random())
                position[k] = min(max(moved, 0.0), size - 1.0)
        for k in range(dimension):
            weights[chain, k] = low + delta * (real[k] if keep_real else position[k])
    return counts
