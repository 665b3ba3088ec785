"""The bounds of :mod:`qlstm_bench.gradients.bounds` for the GRU."""

from __future__ import annotations

import torch

from qlstm_bench.gradients.bounds import Bounds, Inequality, Lambdas, direct_norms
from qlstm_bench.gradients.chain_rule import GRUChainRule
from qlstm_bench.gradients.spectral import spectral_norms
from qlstm_bench.gradients.unrolled import Unrolled


def gru_lambdas(unrolled: Unrolled) -> Lambdas:
    """Return λ1 of a GRU: ``‖∂ξ/∂h_{t−1}‖ ≤ λ1 ‖∂ξ/∂h_t‖``.

    With ``a_* = s_* ‖W_h*‖``, s what normalisation can stretch a gradient by, ``γ = ‖h_{t−1}‖∞`` and
    ``γ_q = ‖N(W_hn h_{t−1}) + b_hn‖∞``, what the reset gate parts:

        ``λ1 = 1 + γ_q/4 a_r + (1 + γ)/4 a_z + a_n``

    The 1 is the update gate's, which hands h_{t−1} on: this λ1 is never below 1.

    Source: the chain rule as in Hou et al. 2019, carried out in docs/theory.md.
    """
    u = unrolled
    one = u.dh.new_ones(())
    norms = spectral_norms(u.directions)
    gamma = u.largest(u.h_before)
    weights = torch.stack([u.largest(u.r[:, :, 2]) / 4, (1 + gamma) / 4, torch.ones_like(gamma)], -1)
    lambda1 = 1 + (weights * u.stretch * norms).sum(-1)
    none = torch.zeros_like(lambda1)
    return Lambdas(u.gates, gamma, norms, u.stretch, 1.0, weights, one, one, lambda1, none)


def gru_bounds(unrolled: Unrolled) -> Bounds:
    """Return both sides of :func:`gru_lambdas`' inequality."""
    u, lambdas, rule = unrolled, gru_lambdas(unrolled), GRUChainRule(unrolled)
    through = rule.to_hidden(u.dh)
    steepest = torch.stack([u.largest(slope) for slope in rule.slopes], -1)
    tight = u.largest(rule.update) + (steepest * u.stretch * lambdas.norms).sum(-1)
    dh = u.over_batch(u.dh)
    none = torch.zeros_like(dh)
    return Bounds(
        lambdas=lambdas,
        left=u.over_batch(through),
        direct=direct_norms(u, through),
        dh=dh,
        dc=none,
        proposition=Inequality(lambdas.lambda1, lambdas.lambda2, lambdas.lambda1 * dh),
        measured=Inequality(tight, none, tight * dh),
        squared=None,
        carry=none,
        through_output=none,
    )
