"""Random fully connected networks of full-precision, binary and ternary weights, and their gradients."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import batch_norm


class _Sign(torch.autograd.Function):
    """sign(z), with the gradient passed straight through: everywhere, or where |z| ≤ ``width``."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(z)
        ctx.width = width
        return torch.where(z >= 0, 1.0, -1.0).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (z,) = ctx.saved_tensors
        return gradient * (z.abs() <= ctx.width), None


def sign(z: Tensor) -> Tensor:
    """Return sign(z), whose gradient passes straight through."""
    out: Tensor = _Sign.apply(z, math.inf)  # type: ignore[no-untyped-call]
    return out


def clipped_sign(z: Tensor) -> Tensor:
    """Return sign(z), whose gradient passes where |z| ≤ 1."""
    out: Tensor = _Sign.apply(z, 1.0)  # type: ignore[no-untyped-call]
    return out


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda z: z,
    "sign": sign,
    "clipped-sign": clipped_sign,
    "relu": torch.relu,
}


def ternarize(weight: Tensor, factor: float = 0.7) -> Tensor:
    """Return equation (3): sign(w) where |w| > Δ, else 0, with ``Δ = factor · mean|w|``."""
    return torch.sign(weight) * (weight.abs() > factor * weight.abs().mean())


def draw_weight(kind: str, fan_in: int, fan_out: int, generator: torch.Generator) -> Tensor:
    """Return a weight matrix ``(fan_in, fan_out)``, float64.

    Args:
        kind: ``"full"``, uniform with variance 1/fan_in; ``"binary"`` and ``"ternary"``, made of uniform ones
            with variance 2/fan_in, He's, as -1 and +1, or by :func:`ternarize`.
        fan_in: K_{l−1}.
        fan_out: K_l.
        generator: source of randomness.
    """
    unit = 2 * torch.rand(fan_in, fan_out, dtype=torch.float64, generator=generator) - 1
    if kind == "full":
        return unit * math.sqrt(3 / fan_in)
    weight = unit * math.sqrt(6 / fan_in)
    return ternarize(weight) if kind == "ternary" else torch.where(weight >= 0, 1.0, -1.0).double()


@dataclass(frozen=True)
class Variances:
    """What one network measured, layer by layer.

    Args:
        forward: V(s^l) for l = 1 … L, over samples and neurons, ``(L,)``.
        backward: V(∂L/∂s^l) relative to that at L, ``(L,)``.
    """

    forward: Tensor
    backward: Tensor


def measure_variances(
    kind: str, activation: str, widths: list[int], batch: int, normalize: bool, generator: torch.Generator
) -> Variances:
    """Send a batch through a random network, and a random gradient back, with autograd.

    ``s^l = a^{l−1} W^l``, ``a^l = f(BN(s^l))`` or ``f(s^l)``; a⁰ = f(x), x standard normal; ∂L/∂s^L is
    standard normal as well.

    Args:
        kind: kind of the weights, as for :func:`draw_weight`.
        activation: one of :data:`ACTIVATIONS`.
        widths: K_0 … K_L.
        batch: B.
        normalize: whether there is batch normalisation before each activation.
        generator: source of randomness.
    """
    f = ACTIVATIONS[activation]
    a = f(torch.randn(batch, widths[0], dtype=torch.float64, generator=generator))
    products = []
    for fan_in, fan_out in itertools.pairwise(widths):
        s = a @ draw_weight(kind, fan_in, fan_out, generator)
        s.requires_grad_() if not s.requires_grad else s.retain_grad()
        products.append(s)
        a = f(batch_norm(s, None, None, training=True, eps=1e-12) if normalize else s)
    top = products[-1]
    top.backward(torch.randn(top.shape, dtype=top.dtype, generator=generator))
    gradients = [torch.zeros(()) if s.grad is None else s.grad.square().mean() for s in products]
    forward = torch.stack([s.detach().square().mean() for s in products])
    return Variances(forward, torch.stack(gradients) / gradients[-1])
