"""What a normaliser promises by declaring ``statistics``: the check, the promise as data, and its equations.

With μ and v the mean and the variance over the axis that is declared,

    ``y = gain ⊙ z + bias``, ``z = (p − μ) / √(v + eps)``

and, from ``d = ∂L/∂z``, with means over the same axis,

    ``∂L/∂p = (d − mean(d) − z ⊙ mean(d ⊙ z)) / √(v + eps)``

Both means are absent where μ and v are running statistics, which do not depend on p. The first is absent
where the normaliser does not centre: there ``μ = 0`` and ``v = mean(p²)``. Compiled code has versions of its
own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from qlstm_core.interfaces import Normalizer
from qlstm_core.layers.prepared import PreparedCell


@dataclass(frozen=True)
class Norm:
    """A normaliser of declared statistics, apart from its gain and bias.

    Pre-activations are ``(…, batch, segments, units)``, a segment being one gate of one group.

    Args:
        statistics: over the features of a segment, or over the batch.
        centered: whether the mean is subtracted.
        eps: added to the variance.
        running: running mean and variance of a normaliser over the batch, ``(steps, segments, units)``.
        momentum: weight of the newest batch in the running statistics.
        training: whether the statistics are the batch's, and the running ones are to be updated.
    """

    statistics: Literal["features", "batch"]
    centered: bool
    eps: float
    running: tuple[Tensor, Tensor] | None = None
    momentum: float = 0.0
    training: bool = False

    @classmethod
    def of(cls, normalizer: Normalizer) -> Norm:
        """Read off a normaliser what its contract promises."""
        statistics = normalizer.statistics
        assert statistics is not None
        values: Any = normalizer
        eps = float(values.eps)
        if statistics == "features":
            return cls(statistics, normalizer.centered, eps)
        running = (normalizer.get_buffer("running_mean"), normalizer.get_buffer("running_var"))
        return cls(statistics, True, eps, running, float(values.momentum), normalizer.training)

    @property
    def axis(self) -> int:
        """The axis of pre-activations that the statistics are over."""
        return -1 if self.statistics == "features" else -3

    @property
    def uses_running(self) -> bool:
        """Whether mean and variance are the running statistics, rather than measured."""
        return self.statistics == "batch" and not self.training

    def measure(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and biased variance of p over :attr:`axis`, which has size 1 in both."""
        if self.centered:
            var, mean = torch.var_mean(p, self.axis, correction=0, keepdim=True)
            return mean, var
        var = p.square().mean(self.axis, keepdim=True)
        return torch.zeros_like(var), var

    def normalize(self, p: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """Return z and the scale ``1/√(v + eps)`` from p and statistics that broadcast with it."""
        scale = torch.rsqrt(var + self.eps)
        return (p - mean) * scale, scale

    def pull_back(self, d: Tensor, z: Tensor, scale: Tensor) -> Tensor:
        """Return ``∂L/∂p`` from ``d``, ``∂L/∂z``, and from what :meth:`normalize` returned."""
        if not self.uses_running:
            along = z * (d * z).mean(self.axis, keepdim=True)
            d = (d - d.mean(self.axis, keepdim=True) if self.centered else d) - along
        return d * scale

    def at_steps(self, steps: int) -> tuple[Tensor, Tensor]:
        """Return copies of the running statistics of each step, ``(steps, segments, units)``.

        Step t takes row t of them, or the last row where there are fewer.
        """
        assert self.running is not None
        mean, var = self.running
        rows = torch.arange(steps, device=mean.device).clamp_(max=len(mean) - 1)
        return mean[rows], var[rows]

    @torch.no_grad()
    def update(self, mean: Tensor, var: Tensor, batch_sizes: list[int]) -> None:
        """Update the running statistics as one step after the other would.

        Args:
            mean, var: statistics of each step's batch, ``(steps, segments, units)``; biased variances.
            batch_sizes: number of sequences that each step's statistics are over.
        """
        assert self.running is not None
        sizes = torch.tensor(batch_sizes, dtype=var.dtype, device=var.device)
        keep = 1.0 - self.momentum
        # Running variances are unbiased.
        unbiased = (torch.ones_like(sizes), sizes / (sizes - 1))
        for running, new, factor in zip(self.running, (mean, var), unbiased, strict=True):
            own = min(len(new), len(running) - 1)
            running[:own].mul_(keep).add_(new[:own] * factor[:own].view(-1, 1, 1), alpha=self.momentum)
            shared = new[own:].flatten(1)
            if len(shared):
                ages = torch.arange(len(shared) - 1, -1, -1, dtype=new.dtype, device=new.device)
                weights = self.momentum * keep**ages * factor[own:]
                sums = torch.mv(shared.t(), weights).view(running.shape[1:])
                running[-1].mul_(keep ** len(shared)).add_(sums)


def gain_and_bias(normalizer: Normalizer) -> tuple[Tensor | None, Tensor | None]:
    """Return gain and bias of a normaliser of declared statistics, ``(segments, units)`` each."""
    return getattr(normalizer, "gain", None), getattr(normalizer, "bias", None)


def norm_obstacle(norm: Normalizer, prepared: PreparedCell) -> str | None:
    """Return why a normaliser is not known to compute what its contract promises with ``statistics``.

    Args:
        norm: one of the normalisers of ``prepared``.
        prepared: the layer in one direction.
    """
    if norm.statistics is None:
        return "declares no statistics"
    classes = type(norm).__mro__
    forward, statistics = (
        next(k for k, cls in enumerate(classes) if name in vars(cls)) for name in ("forward", "statistics")
    )
    if forward < statistics:
        return "defines forward but inherits what it declares"
    if norm._forward_hooks or norm._forward_pre_hooks or norm._backward_hooks or norm._backward_pre_hooks:
        return "has hooks"
    if norm.statistics == "batch" and not norm.centered:
        return "does not centre over the batch"
    dtype, (segments, units) = prepared.input.dtype, prepared.input.shape
    shape = (prepared.groups if norm is prepared.norm_cell else segments, units)
    for name in ("gain", "bias", "running_mean", "running_var"):
        tensor, expected = getattr(norm, name, None), torch.Size(shape)
        if name.startswith("running"):
            if norm.statistics != "batch":
                continue
            tensor = norm.get_buffer(name)
            expected = torch.Size((max(1, len(tensor)), *shape))
        if tensor is not None and (tensor.shape != expected or tensor.dtype != dtype):
            found = f"shape {tuple(tensor.shape)} in {tensor.dtype}"
            return f"has a {name} of {found}, not {tuple(expected)} in {dtype}"
    return None
