"""What a normaliser promises by declaring ``statistics``: whether it holds, and the promise as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from qlstm_core.interfaces import Normalizer
from qlstm_core.layers.linear import Dense, Factored, Grouped, LinearMap
from qlstm_core.layers.prepared import PreparedCell


@dataclass(frozen=True)
class Norm:
    """A normaliser of declared statistics.

    Args:
        statistics: over the features of a gate, or over the batch.
        centered: whether the mean is subtracted.
        eps: added to the variance.
        running: running mean and variance, ``(steps, segments, units)``, of a normaliser over the batch.
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
        eps = float(normalizer.eps)  # type: ignore[arg-type]
        if statistics == "features":
            return cls(statistics, normalizer.centered, eps)
        running = (normalizer.get_buffer("running_mean"), normalizer.get_buffer("running_var"))
        momentum = float(normalizer.momentum)  # type: ignore[arg-type]
        return cls(statistics, True, eps, running, momentum, normalizer.training)

    def given(self, steps: int) -> tuple[Tensor, Tensor]:
        """Return copies of the running statistics of ``steps`` steps, ``(steps, segments, units)``."""
        assert self.running is not None
        mean, var = self.running
        rows = torch.arange(steps, device=mean.device).clamp_(max=len(mean) - 1)
        return mean[rows], var[rows]

    @torch.no_grad()
    def update(self, mean: Tensor, var: Tensor, batch_sizes: list[int]) -> None:
        """Update the running statistics as one step after the other would.

        Args:
            mean, var: statistics of each step's batch, ``(steps, segments, units)``; biased variances.
            batch_sizes: how many sequences each step's are over.
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


def norm_obstacle(norm: Normalizer, prepared: PreparedCell) -> str | None:
    """Return why a normaliser is not known to compute what its contract promises with ``statistics``.

    Args:
        norm: one of those of ``prepared``.
        prepared: with a linear map of this package.
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
    dtype, (segments, units) = prepared.recurrent.dtype, _matrices(prepared.recurrent).shape[:2]
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


def _matrices(linear: LinearMap) -> Tensor:
    """Return the weight that gives the pre-activations, ``(segments, units, …)``."""
    if isinstance(linear, Factored):
        return linear.outer
    assert isinstance(linear, Dense | Grouped)
    return linear.weight
