"""Theorem 5 of Li et al.: the chain's matrices, limit and simulation; and each formula with mistakes.

Seeds as given. A distribution is accepted within total variation 0.02 of the simulated one; at these lengths
simulations of the right chain differ by less than 0.01.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch

from qlstm_bench.theory.rounded_training import markov
from qlstm_bench.theory.rounded_training.descent import Array
from qlstm_bench.theory.rounded_training.lattice import Lattice, toy, toy_slope
from qlstm_bench.theory.rounded_training.markov import (
    MarkovLimit,
    limit_matrix,
    positive_part,
    rates,
    relative_transitions,
    stationary,
    total_variation,
    transition_matrix,
)
from qlstm_quant import Grid

LATTICES = {1: Lattice(0.5, 2.0), 2: Lattice(0.75, 2.0, 2)}
TOLERANCE = 0.02


@cache
def simulated(d: int) -> Array:
    lattice, rng = LATTICES[d], np.random.default_rng(0)
    start = rng.choice(lattice.points, 32)
    _, start = lattice.walk(0.05, 20_000, rng, start)
    return lattice.walk(0.02, 300_000, rng, start)[0]


def test_the_slope_is_that_of_the_function() -> None:
    w = np.array([-1.3, 0.2, 0.99, 1.01, 2.0, 3.49, 3.51, 6.0])
    np.testing.assert_allclose((toy(w + 1e-6) - toy(w - 1e-6)) / 2e-6, toy_slope(w), rtol=1e-6)
    lattice = LATTICES[2]
    h = 1e-6
    at = 17  # any point
    w1, w2 = lattice.points[at]

    def f(a: float, b: float) -> float:
        return float(toy(np.array([a, b])).sum() + lattice.coupling / 2 * (a - b) ** 2)

    assert lattice.value[at] == pytest.approx(f(w1, w2))
    slope = [(f(w1 + h, w2) - f(w1 - h, w2)) / (2 * h), (f(w1, w2 + h) - f(w1, w2 - h)) / (2 * h)]
    np.testing.assert_allclose(lattice.slope[at], slope, rtol=1e-5, atol=1e-6)


def test_positive_part_by_quadrature() -> None:
    z = np.linspace(-30, 30, 600_001)
    for mean, deviation in ((0.0, 1.0), (-2.0, 0.7), (3.0, 2.0)):
        density = np.exp(-((z - mean) ** 2) / (2 * deviation**2)) / np.sqrt(2 * np.pi) / deviation
        expected = (np.maximum(z, 0) * density).sum() * (z[1] - z[0])
        assert positive_part(np.array([mean]), deviation).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("rate", [0.5, 0.1])
@pytest.mark.parametrize("d", LATTICES)
def test_transition_matrix_against_rounded_steps_of_tensors(d: int, rate: float) -> None:
    """100,000 steps from each of four points with the suite's stochastic rounding, within 5 deviations."""
    lattice = LATTICES[d]
    matrix = transition_matrix(lattice, rate)
    np.testing.assert_allclose(matrix.sum(1), 1)
    assert matrix.min() >= 0
    generator = torch.Generator().manual_seed(0)
    index = np.round((lattice.points - lattice.axis[0]) / lattice.delta).astype(int)
    number = {tuple(place): state for state, place in enumerate(index)}
    for state in (0, 3, len(matrix) // 2, len(matrix) - 1):
        noise = torch.randn(100_000, d, dtype=torch.float64, generator=generator) * lattice.noise
        moved = torch.from_numpy(lattice.points[state]) - rate * (
            torch.from_numpy(lattice.slope[state]) + noise
        )
        grid = Grid(lattice.delta, offset=float(lattice.axis[0]))
        rounded = grid.stochastic(moved, generator).clamp(lattice.axis[0], lattice.axis[-1]).numpy()
        places, counts = np.unique(np.round((rounded - lattice.axis[0]) / lattice.delta).astype(int), axis=0,
                                   return_counts=True)  # fmt: skip
        share = np.zeros(len(matrix))
        share[[number[tuple(place)] for place in places]] = counts / 100_000
        deviation = np.sqrt(matrix[state] * (1 - matrix[state]) / 100_000)
        assert np.all(np.abs(share - matrix[state]) <= 5 * deviation + 2e-5)


@pytest.mark.parametrize("d", LATTICES)
def test_stationary_distribution_is_kept_and_positive(d: int) -> None:
    for matrix in (limit_matrix(rates(LATTICES[d])), transition_matrix(LATTICES[d], 0.1)):
        pi = stationary(matrix)
        np.testing.assert_allclose(pi @ matrix, pi, rtol=1e-9, atol=1e-14)
        assert pi.sum() == pytest.approx(1)
        assert pi.min() > 0


def test_one_dimensional_limit_is_in_detailed_balance() -> None:
    """A walk between neighbours: π(x + Δ)/π(x) = U(x, x + Δ)/U(x + Δ, x)."""
    U = rates(LATTICES[1])
    weights = np.cumprod(np.append(1.0, np.diag(U, 1) / np.diag(U, -1)))
    np.testing.assert_allclose(stationary(limit_matrix(U)), weights / weights.sum(), rtol=1e-9)


def test_limit_matrix_is_the_slope_of_the_transition_matrix() -> None:
    for lattice in LATTICES.values():
        U, alpha = rates(lattice), 1e-5
        matrix = transition_matrix(lattice, alpha)
        np.fill_diagonal(matrix, 0)
        np.testing.assert_allclose(matrix / alpha, U, atol=5e-3)
        limit = limit_matrix(U)
        assert limit.min() >= 0
        assert limit.diagonal().min() == pytest.approx(0, abs=1e-12)


# Mistakes in U.


def _by(entries: Callable[[Lattice], tuple[Array, Array]]) -> Callable[[Lattice], Array]:
    return lambda lattice: markov._neighbours(lattice, *entries(lattice))


def _probability(lattice: Lattice) -> tuple[Array, Array]:
    down = torch.special.ndtr(torch.from_numpy(lattice.slope / lattice.noise)).numpy()
    return down, 1 - down


def _second_moment(lattice: Lattice) -> tuple[Array, Array]:
    p, (down, up) = lattice.slope**2 + lattice.noise**2, _probability(lattice)
    return p * down, p * up


MISTAKES: dict[str, Callable[[Lattice], Array]] = {
    "signs as printed": _by(lambda x: (positive_part(-x.slope, x.noise), positive_part(x.slope, x.noise))),
    "probabilities": _by(_probability),
    "second moments": _by(_second_moment),
    "no noise": _by(lambda x: (np.maximum(x.slope, 0.05), np.maximum(-x.slope, 0.05))),
    "columns for rows": lambda lattice: rates(lattice).T,
}


def limit_accepts(formula: Callable[[Lattice], Array]) -> bool:
    return all(
        total_variation(simulated(d), stationary(limit_matrix(formula(lattice)))) <= TOLERANCE
        for d, lattice in LATTICES.items()
    )


def test_theorem_5() -> None:
    assert limit_accepts(rates)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_theorem_5_with_a_mistake_is_refused(mistake: str) -> None:
    assert not limit_accepts(MISTAKES[mistake])


def relative_accepts(formula: Callable[[Lattice], Array]) -> bool:
    """Exact at small rates: within 1e-6 at α = 0.03 and 0.01, and within 0.01 at 0.1."""
    lattice = LATTICES[1]
    wanted = relative_transitions(lattice, formula(lattice))
    return all(
        np.abs(relative_transitions(lattice, transition_matrix(lattice, alpha)) - wanted).max() <= tolerance
        for alpha, tolerance in ((0.1, 0.01), (0.03, 1e-6), (0.01, 1e-6))
    )


def test_relative_probabilities_do_not_change_as_the_step_shrinks() -> None:
    assert relative_accepts(rates)


@pytest.mark.parametrize("mistake", [name for name in MISTAKES if name != "columns for rows"])
def test_relative_probabilities_with_a_mistake_are_refused(mistake: str) -> None:
    assert not relative_accepts(MISTAKES[mistake])


def test_the_exact_chain_predicts_also_large_steps() -> None:
    lattice, rng = LATTICES[1], np.random.default_rng(1)
    share, last = lattice.walk(0.4, 100_000, rng, rng.choice(lattice.points, 16))
    assert total_variation(share, stationary(transition_matrix(lattice, 0.4))) < 0.01
    assert total_variation(share, stationary(limit_matrix(rates(lattice)))) > 0.1
    np.testing.assert_array_equal(last % 0.5, 0)


def test_the_experiment_shows_the_limit_being_reached() -> None:
    table = MarkovLimit(steps=100_000, rate=(0.3, 0.03), chains=16, dimensions=(1,)).run().table
    assert table["TV(exact, limit)"].tolist()[0] > 0.1
    assert table["TV(exact, limit)"].tolist()[1] < 1e-6
    assert (table["TV(simulated, exact)"] < 0.02).all()
