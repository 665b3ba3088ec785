"""What Li et al. (2017) and a second look at their proofs say about the error on convex problems.

Steps are ``α_t = 1/(μ(t+1))``, t = 0 … T − 1; w̄ is the mean of the iterates. G² bounds E‖g‖², g the
stochastic gradient; d is the number of weights and Δ the distance of the grid's points.
Source: Li, De, Xu, Studer, Samet, Goldstein 2017, "Training quantized nets", arXiv:1706.02379.
"""

from __future__ import annotations

import math

import numpy as np

from qlstm_bench.theory.rounded_training.descent import Array


def theorem_1(gradient_bound: float, convexity: float, steps: int, dimension: int, delta: float) -> float:
    """Return theorem 1's bound for SR: ``(1 + log(T+1))·G²/(2μT) + √d·Δ·G/2``.

    Args:
        gradient_bound: G.
        convexity: μ.
        steps: T.
        dimension: d.
        delta: Δ.
    """
    return sgd_term(gradient_bound, convexity, steps) + math.sqrt(dimension) * delta * gradient_bound / 2


def theorem_4(
    gradient_bound: float,
    convexity: float,
    steps: int,
    dimension: int,
    delta: float,
    diameter: float,
    hessian_lipschitz: float,
) -> float:
    """Return theorem 4's bound for BC as printed: ``(1 + log(T+1))·G²/(2μT) + D·L2·√d·Δ/2``.

    Args:
        gradient_bound: G.
        convexity: μ.
        steps: T.
        dimension: d.
        delta: Δ.
        diameter: D, largest distance of the real weights to the minimiser.
        hessian_lipschitz: L2, with ``‖∇²F(x) − ∇²F(y)‖ ≤ L2·‖x − y‖``.
    """
    floor = diameter * hessian_lipschitz * math.sqrt(dimension) * delta / 2
    return sgd_term(gradient_bound, convexity, steps) + floor


def theorem_4_in_units(
    gradient_bound: float,
    convexity: float,
    steps: int,
    dimension: int,
    delta: float,
    diameter: float,
    hessian_lipschitz: float,
) -> float:
    """Return the same with the floor ``D·L2·d·Δ²/8``, which does not depend on the unit of the weights.

    With r = Q(v) − v of mean zero, Taylor's remainder of ``E ∇F(v + r) − ∇F(v)`` is at most ``L2·E‖r‖²/2``,
    and ``E‖r‖² = Σ Δ²p(1 − p) ≤ d·Δ²/4``; its product with ``v − w*`` is at most D times as much.

    Args: as :func:`theorem_4`.
    """
    floor = diameter * hessian_lipschitz * dimension * delta**2 / 8
    return sgd_term(gradient_bound, convexity, steps) + floor


def sgd_term(gradient_bound: float, convexity: float, steps: int) -> float:
    """Return ``(1 + log(T+1))·G²/(2μT)``, what is left of either bound without rounding."""
    return (1 + math.log(steps + 1)) * gradient_bound**2 / (2 * convexity * steps)


def balance(delta: float, magnitude: Array) -> float:
    """Return SR's mean of ⟨∇F(w), w − w*⟩ once it no longer falls: ``(Δ/2)·E‖g‖₁``.

    Rounding an update of −αg, smaller than Δ, adds a variance ``Σ (Δα|g_j| − α²g_j²)``, so that exactly
    ``E‖w' − w*‖² = E‖w − w*‖² − 2α⟨∇F, w − w*⟩ + Δα·E‖g‖₁``. Theorem 1 has ``√d·G ≥ E‖g‖₁`` in its place.

    Args:
        delta: Δ.
        magnitude: E|g_j|, ``(d,)``.
    """
    return float(delta / 2 * magnitude.sum())


def averaged_floor(delta: float, magnitude: Array, hessian: Array, convexity: float) -> float:
    """Return SR's floor of F(w̄) − F(w*), quadratic F: ``½·tr(H (H/μ + 1)⁻¹ C)``, ``HC + CH = Δ·diag(E|g|)``.

    In the time s = log(t)/μ the iterates are a stationary process with mean w* and covariance
    ``e^{−H|s−s'|}·C``; w̄ averages it over t = e^{μs}. With H = h·1 it is ``(Δ/4)·E‖g‖₁·μ/(μ + h)``. It does
    not fall with T: the steps shrink as fast as new ones come.

    Args:
        delta: Δ.
        magnitude: E|g_j|, ``(d,)``.
        hessian: H, ``(d, d)``, at the minimiser.
        convexity: μ.
    """
    values, basis = np.linalg.eigh(hessian)
    source = basis.T @ np.diag(delta * magnitude) @ basis
    covariance = source / (values[:, None] + values[None, :])
    return float((values / (values / convexity + 1) * np.diag(covariance)).sum() / 2)


def last_move(largest: Array, convexity: float, delta: float) -> int:
    """Return the last step at which R can move a weight: the last t with ``max|g_j| / (μ(t+1)) ≥ Δ/2``.

    Args:
        largest: largest |g_j| at each step, ``(T,)``.
        convexity: μ.
        delta: Δ.
    """
    updates = largest / (convexity * (np.arange(largest.size) + 1))
    return int(np.flatnonzero(updates >= delta / 2).max(initial=-1))
