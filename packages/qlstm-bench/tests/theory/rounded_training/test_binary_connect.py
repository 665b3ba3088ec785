"""Where BinaryConnect ends on one weight, how long it is stuck, where theorem 4 as printed fails. Seed 0."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from qlstm_bench.theory.rounded_training import binary_connect, convex_bounds
from qlstm_bench.theory.rounded_training.binary_connect import (
    BinaryConnectFloor,
    BinaryConnectTrap,
    coin,
    secant_root,
)
from qlstm_bench.theory.rounded_training.descent import Array, Problem, descend


@pytest.fixture(scope="module")
def floors() -> pd.DataFrame:
    return BinaryConnectFloor(steps=300_000).run().table


@pytest.fixture(scope="module")
def trap() -> pd.DataFrame:
    return BinaryConnectTrap(distance=(0.05, 0.06, 0.08, 0.12), steps=13_000).run().table


# The secant root: within 1e-3·Δ of BC's averaged weight.


def _slopes(problem: Problem, delta: float) -> tuple[float, float, float]:
    below = math.floor(problem.minimizer[0] / delta) * delta
    out = np.empty(1)
    slopes = []
    for point in (below, below + delta):
        problem.gradient(problem.arrays, np.array([point]), np.random.default_rng(0), out)
        slopes.append(float(out[0]))
    return below, slopes[0], slopes[1]


def _nearest(problem: Problem, delta: float) -> Array:
    return np.round(problem.minimizer / delta) * delta


def _middle(problem: Problem, delta: float) -> Array:
    return np.array([_slopes(problem, delta)[0] + delta / 2])


def _swapped(problem: Problem, delta: float) -> Array:
    below, low, high = _slopes(problem, delta)
    return np.array([below + delta * high / (high - low)])


SECANT: dict[str, Callable[[Problem, float], Array]] = {
    "the minimiser": lambda problem, delta: problem.minimizer,
    "the nearest point": _nearest,
    "the middle": _middle,
    "slopes swapped": _swapped,
}


def secant_accepts(formula: Callable[[Problem, float], Array]) -> bool:
    problem = coin(0.85, 0.05, 1.0)
    for method in ("BC", "BC-SQ"):
        for delta in (2.0, 4.0):
            rng = np.random.default_rng(0)
            run = descend(problem, method, delta, steps=300_000, chains=8, rng=rng)
            if abs(run.used_mean.mean() - formula(problem, delta).item()) > 2e-3 * delta:
                return False
    return True


def test_secant_root() -> None:
    assert secant_accepts(secant_root)


@pytest.mark.parametrize("mistake", SECANT)
def test_secant_root_with_a_mistake_is_refused(mistake: str) -> None:
    assert not secant_accepts(SECANT[mistake])


# Theorem 4's floor: a bound must hold, and be the same in every unit of the weights.

FLOORS: dict[str, Callable[..., float]] = {
    "as printed": convex_bounds.theorem_4,
    "Δ for Δ²": lambda G, mu, T, d, delta, D, L2: convex_bounds.sgd_term(G, mu, T) + D * L2 * d * delta / 8,
    "without D": lambda G, mu, T, d, delta, D, L2: convex_bounds.sgd_term(G, mu, T) + L2 * d * delta**2 / 8,
    "square of L2": lambda G, mu, T, d, delta, D, L2: (
        convex_bounds.sgd_term(G, mu, T) + D * (L2 * delta) ** 2 / 8
    ),
    "no floor": lambda G, mu, T, d, delta, D, L2: convex_bounds.sgd_term(G, mu, T),
}


def floor_accepts(formula: Callable[..., float]) -> bool:
    for method in ("BC", "BC-SQ"):
        for delta in (2.0, 4.0):
            found = []
            for scale in (1.0, 1e-3):
                problem, rng = coin(0.85, 0.05, scale), np.random.default_rng(0)
                run = descend(problem, method, delta / scale, steps=300_000, chains=4, rng=rng)
                bound = formula(
                    run.gradient_bound, problem.convexity, 300_000, 1, delta / scale, run.distance,
                    problem.hessian_lipschitz,
                )  # fmt: skip
                if problem.excess(run.used_mean).mean() > bound:
                    return False
                found.append(bound)
            if abs(found[1] / found[0] - 1) > 0.02:
                return False
    return True


def test_theorem_4_with_the_proofs_floor() -> None:
    assert floor_accepts(convex_bounds.theorem_4_in_units)


@pytest.mark.parametrize("mistake", FLOORS)
def test_theorem_4_as_printed_and_with_other_mistakes_is_refused(mistake: str) -> None:
    assert not floor_accepts(FLOORS[mistake])


def test_the_proofs_floor_is_reached_by_the_bias_of_a_cubic() -> None:
    """F' = L2·w²/2 at the middle of a cell: E F'(Q_s(v)) − F'(v) = L2·Δ²/8, the floor over D."""
    L2, delta, v = 3.0, 0.4, 0.6
    bias = L2 / 2 * ((v - delta / 2) ** 2 + (v + delta / 2) ** 2) / 2 - L2 / 2 * v**2
    floor = convex_bounds.theorem_4_in_units(0.0, 1.0, 10, 1, delta, 1.0, L2)
    assert floor == pytest.approx(bias)


def test_the_error_is_the_same_in_every_unit_and_the_printed_bound_is_broken(floors: pd.DataFrame) -> None:
    for _, part in floors.groupby(["method", "delta"]):
        assert part.error.max() == pytest.approx(part.error.min(), rel=1e-3)
    assert (floors.error <= floors.corrected).all()
    broken = floors[(floors.delta == 4.0) & (floors.scale == 0.001)]
    assert (broken.error > 20 * broken["theorem 4"]).all()
    np.testing.assert_allclose(floors.error, floors.predicted, rtol=0.03)


# How long BC stays at a grid point near the minimiser: within 2 % of the step.

ESCAPE: dict[str, Callable[[float], float]] = {
    "without γ": lambda rho: math.exp(1 / (2 * rho)),
    "1/ρ": lambda rho: math.exp(1 / rho - np.euler_gamma),
    "a power": lambda rho: 1 / (2 * rho) ** 2,
}


def escape_accepts(formula: Callable[[float], float], trap: pd.DataFrame) -> bool:
    predicted = trap.distance.map(formula)
    return bool(((trap.escape - predicted).abs() <= 1 + 0.02 * trap.escape).all())


def test_escape(trap: pd.DataFrame) -> None:
    assert escape_accepts(binary_connect.escape_step, trap)


@pytest.mark.parametrize("mistake", ESCAPE)
def test_escape_with_a_mistake_is_refused(mistake: str, trap: pd.DataFrame) -> None:
    assert not escape_accepts(ESCAPE[mistake], trap)


def test_nearest_rounding_breaks_theorem_4_and_stochastic_rounding_keeps_it() -> None:
    table = BinaryConnectTrap(distance=(0.05,), steps=10_000).run().table
    assert (table["BC error"] > 500 * table["BC bound"]).all()
    assert table["BC error"].item() == pytest.approx(0.05**2 / 2)
    assert (table["BC-SQ error"] < table["BC-SQ bound"]).all()
