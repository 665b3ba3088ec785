"""Formulas of the theory as numbers worked out by hand: a bound that holds need not be the one meant."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from qlstm_bench.theory.batch_norm_variance import formulas
from qlstm_bench.theory.rounded_training import convex_bounds
from qlstm_bench.theory.rounded_training.binary_connect import escape_step, parabola, secant_root
from qlstm_bench.theory.rounded_training.lattice import Lattice
from qlstm_bench.theory.rounded_training.markov import relative_transitions, stationary, total_variation
from qlstm_bench.theory.rounded_training.rounding_adam import flip_probability

WIDTHS = (10, 20, 40, 80)


def test_printed_forms_of_the_variances() -> None:
    """Products over the layers between, with K = 10, 20, 40, 80."""
    forward, backward = formulas.paper_forward, formulas.paper_backward
    assert forward("binary", WIDTHS, 1) == 1
    assert forward("binary", WIDTHS, 3) == 20 * 40
    assert forward("ternary", WIDTHS, 2) == pytest.approx(0.65 * 20)
    assert forward("full", WIDTHS, 3) == pytest.approx(20 / 10 * 40 / 20)
    assert backward("binary", WIDTHS, 1, 8, normalize=False) == 40 * 80
    assert backward("binary", WIDTHS, 1, 8, normalize=True) == 40 / 10 * 80 / 20
    # Equation (2): (B² + 2B)/B² = 1.25 at B = 8.
    assert backward("full", WIDTHS, 2, 8, normalize=True) == pytest.approx(1.25 * 80 / 40)


def test_backward_variance_of_two_layers() -> None:
    """``K_{l+1} V E f'² / (K_{l−1} V V(f)) · (B − 1 − κ)/(B − 3)``."""
    found = formulas.backward("binary", "relu", WIDTHS, 2, 7, normalize=True)
    assert found == pytest.approx(80 * 0.5 / (20 * (0.5 - 1 / (2 * math.pi))) * (7 - 1 - 1) / (7 - 3))
    assert formulas.backward("ternary", "relu", WIDTHS, 2, 7, normalize=False) == pytest.approx(80 * 0.65 / 2)
    # A sum of ten signs is 0 in 252 of 1024 cases.
    clipped = formulas.backward("binary", "clipped-sign", WIDTHS[:3], 1, 7, normalize=False)
    assert clipped == pytest.approx(40 * 252 / 1024)


def test_theorems_of_convex_problems() -> None:
    """With G = 3, μ = ½, T = 99, d = 16, Δ = ¼, D = 5, L2 = 2."""
    sgd = (1 + math.log(100)) * 9 / 99
    known = {"gradient_bound": 3.0, "convexity": 0.5, "steps": 99, "dimension": 16, "delta": 0.25}
    assert convex_bounds.theorem_1(**known) == pytest.approx(sgd + 4 * 0.25 * 3 / 2)  # type: ignore[arg-type]
    known |= {"diameter": 5.0, "hessian_lipschitz": 2.0}
    assert convex_bounds.theorem_4(**known) == pytest.approx(sgd + 5 * 2 * 4 * 0.25 / 2)  # type: ignore[arg-type]
    in_units = convex_bounds.theorem_4_in_units(**known)  # type: ignore[arg-type]
    assert in_units == pytest.approx(sgd + 5 * 2 * 16 * 0.0625 / 8)
    assert convex_bounds.balance(0.5, np.array([1.0, 3.0])) == 1.0
    # H = 3·1: (Δ/4)·E‖g‖₁·μ/(μ + h).
    floor = convex_bounds.averaged_floor(0.5, np.array([1.0, 3.0]), 3 * np.eye(2), 0.5)
    assert floor == pytest.approx(0.5 / 4 * 4 * 0.5 / 3.5)


def test_last_move_by_hand() -> None:
    """``max|g| / (μ(t + 1)) ≥ Δ/2``: 4, 2, 4/3, 1, 4/5 with μ = 1; on the bound it still moves."""
    largest = np.full(5, 4.0)
    assert [convex_bounds.last_move(largest, 1.0, delta) for delta in (8.1, 8.0, 2.0, 1.0)] == [-1, 0, 3, 4]


def test_escape_and_root_of_binary_connect() -> None:
    """ρ·(log t + γ) = ½; and of a parabola the root of the secant is the minimiser itself."""
    for distance in (0.05, 0.2):
        step = escape_step(distance)
        assert distance * (math.log(step) + np.euler_gamma) == pytest.approx(0.5)
    assert secant_root(parabola(1.3), 0.5) == pytest.approx([1.3])


def test_small_markov_chains() -> None:
    assert total_variation(np.array([1.0, 0.0]), np.array([0.25, 0.75])) == 0.75
    # Two states, left with 0.1 and 0.3: they are held in the ratio 3 to 1.
    assert stationary(np.array([[0.9, 0.1], [0.3, 0.7]])) == pytest.approx([0.75, 0.25])
    lattice = Lattice(1.0, 1.0, low=0.0, high=2.0)
    matrix = np.array([[0.5, 0.5, 0.0], [0.1, 0.6, 0.3], [0.0, 0.5, 0.5]])
    assert relative_transitions(lattice, matrix) == pytest.approx([0.75])


def test_flip_probabilities() -> None:
    """Weights ±½ with Δ = 1, moved towards the other point, away from it, and past it."""
    before = torch.tensor([0.5, -0.5, 0.5, 0.5, -0.5])
    after = torch.tensor([0.25, 0.25, 0.75, -0.75, -0.6])
    stochastic = flip_probability(before, after, 1.0, "stochastic")
    assert stochastic.tolist() == pytest.approx([0.25, 0.75, 0.0, 1.0, 0.0])
    assert flip_probability(before, after, 1.0, "deterministic").tolist() == [0, 1, 0, 1, 0]
