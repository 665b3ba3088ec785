"""Exact Jacobians of small networks: how far a state's direction is stretched through time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qlstm_bench.gradients.bounds import Bounds, Inequality
from qlstm_bench.gradients.chain_rule import chain_rule
from qlstm_bench.gradients.normalization import GradientAnalysisError
from qlstm_bench.gradients.spectral import spectral_norms
from qlstm_bench.gradients.through_time import vector_norms
from qlstm_bench.gradients.unrolled import Unrolled

LARGEST_STATE = 512
"""Elements of the state, all sequences together where they act on one another."""


@dataclass(frozen=True)
class StateStretch:
    """The largest singular value of ``∂h_T/∂h_t``, and what bounds it.

    Args:
        log_norms: log10 ``‖∂h_T/∂h_t‖₂`` for t = 0 … T − 1 in the order of computation, ``(T, batch)``, or
            ``(T, 1)`` for a batch whose sequences act on one another.
        exponent: the largest Lyapunov exponent over these T steps, per step: ``ln ‖∂s_T/∂s_0‖₂ / T``, with s
            the whole state; positive: states that were close part. ``(batch or 1,)``.
    """

    log_norms: Tensor
    exponent: Tensor


def step_jacobians(unrolled: Unrolled) -> Tensor:
    """Return ``∂s_k/∂s_{k−1}`` of every step, with ``s = (h, c)``, or h for a GRU: ``(T, batch, S, S)``.

    Where sequences act on one another (batch statistics) s is the state of them all: ``(T, 1, B·S, B·S)``.

    Raises:
        GradientAnalysisError: a state of more than 512 elements.
    """
    u = unrolled
    steps, batch, out = u.dh.shape
    hidden = u.dc.shape[-1] if u.dc.numel() else 0
    size, together = out + hidden, batch if u.couples else 1
    if size * together > LARGEST_STATE:
        raise GradientAnalysisError(
            f"the exact Jacobian is for states of at most {LARGEST_STATE} elements, got {size * together}"
            + (f": {batch} sequences that act on one another" if u.couples else "")
        )
    rule = chain_rule(u)
    jacobians = u.dh.new_empty(steps, batch // together, size * together, size * together)
    for sequence in range(together):
        for element in range(size):
            seed = u.dh.new_zeros(steps, batch, size)
            seed[:, sequence if u.couples else slice(None), element] = 1
            dh, dc = rule.back(seed[..., :out], seed[..., out:])
            row = torch.cat([dh, dc], -1)
            jacobians[:, :, sequence * size + element] = row.flatten(1).unsqueeze(1) if u.couples else row
    return jacobians


def state_stretch(unrolled: Unrolled) -> StateStretch:
    """Return how much the state's directions are stretched from each step to the last.

    Args:
        unrolled: the layer over a batch.

    Raises:
        GradientAnalysisError: a state of more than 512 elements.
    """
    jacobians = step_jacobians(unrolled)
    steps, count, size, _ = jacobians.shape
    out = unrolled.dh.shape[-1]
    hidden = unrolled.dc.shape[-1] if unrolled.dc.numel() else 0
    of_h = torch.arange(size, device=jacobians.device) % (out + hidden) < out
    product = torch.eye(size, dtype=jacobians.dtype, device=jacobians.device).expand(count, -1, -1)
    log_scale = jacobians.new_zeros(count)
    logs = []
    for k in reversed(range(steps)):
        product = product @ jacobians[k]
        # Scaled in every step: the product itself soon leaves float64.
        scale = vector_norms(product.flatten(1))
        product = product / torch.where(scale > 0, scale, torch.ones_like(scale))[:, None, None]
        log_scale = log_scale + scale.log10()
        logs.append(spectral_norms(product[:, of_h][:, :, of_h]).log10() + log_scale)
    exponent = (spectral_norms(product).log10() + log_scale) * math.log(10) / steps
    return StateStretch(torch.stack(logs[::-1]), exponent)


def bounded_stretch(bounds: Bounds, inequality: Inequality) -> Tensor:
    """Return what an inequality allows for log10 ``‖∂h_T/∂h_t‖₂``, t = 0 … T − 1: ``(T, batch or 1)``.

    Steps follow ``a_{k−1} = λ1 a_k + λ2 b_{k+1}``, ``b_k = κ p a_k + φ b_{k+1}`` from ``a_T = 1`` and
    ``b_{T+1} = 0``, where b bounds ``‖∂h_T/∂c_k‖``. By the proposition alone φ = 1; measured, it is the
    largest forget gate.

    Args:
        bounds: bounds of the same layer, step by step.
        inequality: ``bounds.proposition`` or ``bounds.measured``.
    """
    measured = inequality is bounds.measured
    kept = bounds.carry if measured else torch.ones_like(bounds.carry)
    worst = bounds.lambdas.kappa * bounds.lambdas.project
    leaving = bounds.through_output if measured else worst.expand_as(bounds.through_output)
    h, c = torch.ones_like(bounds.dh[0]), torch.zeros_like(bounds.dh[0])
    log_scale = torch.zeros_like(h)
    logs = []
    for k in reversed(range(len(bounds.dh))):
        h, c = inequality.lambda1[k] * h + inequality.lambda2[k] * c, leaving[k] * h + kept[k] * c
        scale = torch.maximum(h, c)
        h, c, log_scale = h / scale, c / scale, log_scale + scale.log10()
        logs.append(h.log10() + log_scale)
    return torch.stack(logs[::-1])
