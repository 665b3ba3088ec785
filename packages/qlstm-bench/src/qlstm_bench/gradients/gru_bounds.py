"""The bound of :mod:`qlstm_bench.gradients.bounds` for the GRU."""

from __future__ import annotations

import torch

from qlstm_bench.gradients.bounds import Bounds, Inequality, direct_norms
from qlstm_bench.gradients.spectral import spectral_norms
from qlstm_bench.gradients.unrolled import Unrolled


def gru_bounds(unrolled: Unrolled) -> Bounds:
    """Return the bounds of a GRU: ``‖∂ξ/∂h_{t−1}‖ ≤ λ1 ‖∂ξ/∂h_t‖``.

    With ``a_* = s_* ‖W_h*‖``, s what normalisation can stretch a gradient by, ``γ = ‖h_{t−1}‖∞`` and
    ``γ_q = ‖N(W_hn h_{t−1}) + b_hn‖∞``, what the reset gate lets through:

        ``λ1 = 1 + γ_q/4 a_r + (1 + γ)/4 a_z + a_n``

    The 1 is the update gate's: it hands h_{t−1} on. λ1 is therefore never below 1; ``measured`` can be.

    Source: the chain rule as in Hou et al. 2019, carried out in docs/theory.md.
    """
    u = unrolled
    query = u.r[:, :, 2]
    reset = (u.x[:, :, 0] + u.r[:, :, 0]).sigmoid()
    update = (u.x[:, :, 1] + u.r[:, :, 1]).sigmoid()
    new = (u.x[:, :, 2] + reset * query).tanh()
    of_new = (1 - update) * (1 - new * new)
    slopes = (
        of_new * query * reset * (1 - reset),
        (u.h_before - new) * update * (1 - update),
        of_new * reset,
    )
    through = update * u.dh + u.pull_back(torch.stack([u.dh * slope for slope in slopes], 2))

    gamma = u.largest(u.h_before)
    norms = spectral_norms(u.directions)
    acting = u.stretch * norms
    weights = torch.stack([u.largest(query) / 4, (1 + gamma) / 4, torch.ones_like(gamma)], -1)
    steepest = torch.stack([u.largest(slope) for slope in slopes], -1)
    lambda1 = 1 + (weights * acting).sum(-1)
    tight1 = u.largest(update) + (steepest * acting).sum(-1)
    dh = u.over_batch(u.dh)
    none = torch.zeros_like(lambda1)
    return Bounds(
        left=u.over_batch(through),
        direct=direct_norms(u, through),
        dh=dh,
        dc=torch.zeros_like(dh),
        gates=u.gates,
        gamma=gamma,
        norms=norms,
        stretch=u.stretch,
        base=1.0,
        weights=weights,
        proposition=Inequality(lambda1, none, lambda1 * dh),
        measured=Inequality(tight1, none, tight1 * dh),
        squared=None,
        carry=none,
        through_output=none,
    )
