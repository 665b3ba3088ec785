"""Bounds on how a gradient can grow in one step back through time: propositions 1 to 4 for the LSTM, and
what takes their place for the GRU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qlstm_bench.gradients.chain_rule import GRUChainRule, LSTMChainRule
from qlstm_bench.gradients.spectral import spectral_norms
from qlstm_bench.gradients.through_time import vector_norms
from qlstm_bench.gradients.unrolled import Unrolled


@dataclass(frozen=True)
class Lambdas:
    """``‖∂ξ/∂h_{k−1}‖ ≤ λ1 ‖∂ξ/∂h_k‖ + λ2 ‖∂ξ/∂c_{k+1}‖`` at every step: λ1, λ2 and what they are made of.

    Every tensor has T steps in the order of computation, and one column per sequence, or a single one where
    all have the same value or act on one another (batch normalisation).

    Args:
        gates: the letters of the gates' matrices.
        gamma: ``‖c_{k−1}‖∞``, the paper's γ1, or γ2 over the batch; of a GRU ``‖h_{k−1}‖∞``.
        norms: spectral norm of each gate's matrix, ``(gates,)``: of D⁻¹W with weight normalisation.
        stretch: what normalisation multiplies each of them by, ``(T, batch or 1, gates)``.
        base, weights: λ1 without normalisation is ``base + Σ weights_* ‖W_h*‖``; shaped as stretch.
        kappa: ``max_j |g_j|/σ_j`` of a normalised cell state, else 1.
        project: ``‖W_hr‖`` of a projection, else 1.
        lambda1, lambda2: ``(T, batch or 1)``; λ2 of a GRU is 0.
    """

    gates: str
    gamma: Tensor
    norms: Tensor
    stretch: Tensor
    base: float
    weights: Tensor
    kappa: Tensor
    project: Tensor
    lambda1: Tensor
    lambda2: Tensor

    @property
    def corollary(self) -> Tensor:
        """Whether λ2 = 0 and λ1 ≤ 1, so that the gradient cannot grow in this step: ``(T, batch or 1)``."""
        return (self.lambda2 == 0) & (self.lambda1 <= 1)

    def unnormalized(self, norms: Tensor) -> Tensor:
        """Return proposition 1's λ1 for other recurrent matrices, with γ as measured: ``(T, batch or 1)``.

        Args:
            norms: spectral norm of each gate's matrix, ``(gates,)``.
        """
        return self.base + (self.weights * norms).sum(-1)


@dataclass(frozen=True)
class Inequality:
    """``left ≤ λ1 ‖∂ξ/∂h_k‖ + λ2 ‖∂ξ/∂c_{k+1}‖`` at every step; see :class:`Bounds` for the left side.

    Args:
        lambda1, lambda2: ``(T, batch or 1)``.
        right: the right side, likewise.
    """

    lambda1: Tensor
    lambda2: Tensor
    right: Tensor


@dataclass(frozen=True)
class Bounds:
    """What passes from one state to the one before it on a batch, and how much of it there can be.

    Every tensor is ``(T, batch)``, or ``(T, 1)`` with norms over the batch where its sequences act on one
    another; steps are in the order of computation.

    Args:
        lambdas: what the proposition is made of.
        left: norm of what reaches ``h_{k−1}`` through step k. That is ``‖∂ξ/∂h_{k−1}‖`` where the loss reads
            the last state alone and no layer lies above; else ``direct`` comes on top.
        direct: norm of what reaches ``h_{k−1}`` otherwise: from the loss, or from a layer above. The first
            row, of the initial state, is 0.
        dh, dc: ``‖∂ξ/∂h_k‖`` and ``‖∂ξ/∂c_{k+1}‖``; without cell state the latter is 0.
        proposition: as derived, from norms, stretch and γ alone.
        measured: with the gates' slopes as they were on the batch, in place of the most that they can be.
        squared: proposition 4 as printed, on squares; ``None`` but for batch statistics in an LSTM.
        carry: the share of ``∂ξ/∂c_{k+1}`` that reaches c_k at most: the largest forget gate; of a GRU 0.
        through_output: the share of ``∂ξ/∂h_k`` that reaches c_k at most; of a GRU 0.
    """

    lambdas: Lambdas
    left: Tensor
    direct: Tensor
    dh: Tensor
    dc: Tensor
    proposition: Inequality
    measured: Inequality
    squared: Inequality | None
    carry: Tensor
    through_output: Tensor

    def over_batch(self, inequality: Inequality) -> tuple[Tensor, Tensor, Tensor]:
        """Return λ1, λ2 and the right side for the whole batch, ``(T,)`` each.

        ``‖left‖ ≤ max λ1 ‖dh‖ + max λ2 ‖dc‖`` with norms and maxima over the sequences, by Minkowski.
        """
        lambda1, lambda2 = inequality.lambda1.amax(1), inequality.lambda2.amax(1)
        return lambda1, lambda2, lambda1 * vector_norms(self.dh) + lambda2 * vector_norms(self.dc)


def lstm_lambdas(unrolled: Unrolled) -> Lambdas:
    """Return λ1 and λ2 of an LSTM.

    With ``a_* = s_* ‖W_h*‖``, s what normalisation can stretch a gradient by, ``p = ‖W_hr‖`` of a projection
    and ``κ = max_j |g_j|/σ_j`` of a normalised cell state (both 1 where there is none):

        ``λ2 = ¼ a_i + γ/4 a_f + a_g``, ``λ1 = p (κ λ2 + ¼ a_o)``

    Source: Hou et al. 2019, propositions 1 to 4; docs/gradient-bounds.md derives each step and what differs.
    """
    u = unrolled
    one = u.dh.new_ones(())
    norms = spectral_norms(u.directions)
    project = one if u.prepared.projection is None else spectral_norms(u.prepared.projection.detach())
    kappa = one if u.cell_norm is None else u.cell_norm.stretch.amax(-1)
    gamma = u.largest(u.c_before)
    quarter = torch.full_like(gamma, 0.25)
    weights = torch.stack([quarter, gamma / 4, torch.ones_like(gamma), quarter], -1)
    lambda1, lambda2 = _combine(u.stretch * norms * weights, kappa, project)
    return Lambdas(u.gates, gamma, norms, u.stretch, 0.0, weights, kappa, project, lambda1, lambda2)


def lstm_bounds(unrolled: Unrolled) -> Bounds:
    """Return both sides of :func:`lstm_lambdas`' inequality."""
    u, lambdas, rule = unrolled, lstm_lambdas(unrolled), LSTMChainRule(unrolled)
    through = rule.to_hidden(u.dh, u.dc)
    carry = _following(u.largest(rule.forget), at_end=0.0)
    leaving = lambdas.kappa * u.largest(rule.leaving)
    steepest = torch.stack([u.largest(slope) for slope in rule.slopes], -1)
    tight1, tight2 = _combine(u.stretch * lambdas.norms * steepest, leaving, lambdas.project)
    tight2 = carry * tight2
    dh = u.over_batch(u.dh)
    dc = u.over_batch(_following(u.dc, at_end=0.0))
    lambda1, lambda2 = lambdas.lambda1, lambdas.lambda2
    return Bounds(
        lambdas=lambdas,
        left=u.over_batch(through),
        direct=direct_norms(u, through),
        dh=dh,
        dc=dc,
        proposition=Inequality(lambda1, lambda2, lambda1 * dh + lambda2 * dc),
        measured=Inequality(tight1, tight2, tight1 * dh + tight2 * dc),
        squared=_squared(lambdas, dh, dc) if u.couples else None,
        carry=carry,
        through_output=lambdas.project * leaving,
    )


def _combine(terms: Tensor, kappa: Tensor, project: Tensor) -> tuple[Tensor, Tensor]:
    """Return λ1 and λ2 from what each gate adds, ``(T, batch or 1, gates)``."""
    of_cell = terms[..., :3].sum(-1)
    return project * (kappa * of_cell + terms[..., 3]), of_cell


def _squared(lambdas: Lambdas, dh: Tensor, dc: Tensor) -> Inequality:
    """Return proposition 4: ``left² ≤ λ1 ‖∂ξ/∂h_k‖² + λ2 ‖∂ξ/∂c_{k+1}‖²``, norms over the batch."""
    a_i, a_f, a_g, a_o = (lambdas.stretch * lambdas.norms).square().unbind(-1)
    lambda2 = a_i / 2 + lambdas.gamma.square() / 2 * a_f + 8 * a_g
    lambda1 = lambdas.project.square() * (lambdas.kappa.square() * lambda2 + a_o / 4)
    return Inequality(lambda1, lambda2, lambda1 * dh.square() + lambda2 * dc.square())


def _following(values: Tensor, at_end: float) -> Tensor:
    """Return each step's next value, ``(T, …)``."""
    return torch.cat([values[1:], torch.full_like(values[:1], at_end)])


def direct_norms(unrolled: Unrolled, through: Tensor) -> Tensor:
    """Return the norm of what reaches each step's earlier state otherwise than through the step.

    Args:
        unrolled: the layer over a batch.
        through: what reaches it through the step, ``(T, batch, out)``.
    """
    rest = unrolled.dh[:-1] - through[1:]
    return unrolled.over_batch(torch.cat([torch.zeros_like(through[:1]), rest]))


def gru_lambdas(unrolled: Unrolled) -> Lambdas:
    """Return λ1 of a GRU: ``‖∂ξ/∂h_{t−1}‖ ≤ λ1 ‖∂ξ/∂h_t‖``.

    With ``a_* = s_* ‖W_h*‖``, s what normalisation can stretch a gradient by, ``γ = ‖h_{t−1}‖∞`` and
    ``γ_q = ‖N(W_hn h_{t−1}) + b_hn‖∞``, what the reset gate parts:

        ``λ1 = 1 + γ_q/4 a_r + (1 + γ)/4 a_z + a_n``

    The 1 is the update gate's, which hands h_{t−1} on: this λ1 is never below 1.

    Source: the chain rule as in Hou et al. 2019, carried out in docs/gradient-bounds.md.
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
