"""What a normaliser does to a gradient: how much it can stretch it, and where it sends it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qlstm_bench.errors import BenchError
from qlstm_core import Normalizer


class GradientAnalysisError(BenchError):
    """A layer whose bounds are not known; the message is one line that says why."""


@dataclass(frozen=True)
class Normalization:
    """A normaliser on the pre-activations of every step of a batch: ``y = g ⊙ z + b``, ``z = (x − μ)/σ``.

    With ``Δ = ∂ξ/∂y``, and means over what μ and σ are taken over,

        ``∂ξ/∂x = (g ⊙ Δ − mean(g ⊙ Δ) − z ⊙ mean(g ⊙ Δ ⊙ z)) / σ``

    which is a diagonal matrix g, then one whose eigenvalues lie in [0, 1], divided by σ: the gradient grows
    by at most ``max |g_j| / σ_j``. Running statistics take no part in the derivative: both means are then
    absent. So is the first where the normaliser does not centre.

    Args:
        deviation: x − μ, ``(T, batch, gates, rows)``.
        sigma: σ with ε in it, ``√(v + ε)``: ``(T, batch, gates, 1)`` over features, ``(T, 1, gates, rows)``
            over the batch.
        gain: g, ``(gates, rows)``.
        bias: b, likewise, or 0.
        axis: of the means: the batch's or the features'; ``None`` for running statistics.
        centered: whether the mean is subtracted.
        couples: whether sequences of the batch act on one another.
    """

    deviation: Tensor
    sigma: Tensor
    gain: Tensor
    bias: Tensor | float
    axis: int | None
    centered: bool

    @classmethod
    def of(cls, normalizer: Normalizer, x: Tensor) -> Normalization:
        """Return what ``normalizer`` computes from ``x``, ``(T, batch, gates, rows)``.

        Args:
            normalizer: that acts on activations.
            x: its argument at every step, in the order of computation.

        Raises:
            GradientAnalysisError: a normaliser that does not declare its statistics.
        """
        if normalizer.statistics is None:
            raise GradientAnalysisError(
                f"the gradient bounds of {type(normalizer).__name__} are not known: it declares no statistics"
            )
        gain, bias, eps = normalizer.gain, normalizer.bias, normalizer.eps
        assert isinstance(gain, Tensor)
        assert isinstance(eps, float)
        axis = 3 if normalizer.statistics == "features" else 1
        if axis == 1 and not normalizer.training:
            rows = _running_rows(normalizer, len(x))
            mean, variance = (
                getattr(normalizer, name)[rows].unsqueeze(1) for name in ("running_mean", "running_var")
            )
            axis_of_means = None
        else:
            mean = x.mean(axis, keepdim=True) if normalizer.centered else x.new_zeros(())
            variance = (x - mean).square().mean(axis, keepdim=True)
            axis_of_means = axis
        sigma = (variance + eps).sqrt()
        return cls(
            deviation=x - mean,
            sigma=sigma.detach(),
            gain=gain.detach(),
            bias=bias.detach() if isinstance(bias, Tensor) else 0.0,
            axis=axis_of_means,
            centered=normalizer.centered,
        )

    @property
    def couples(self) -> bool:
        """Whether the sequences of a batch act on one another."""
        return self.axis == 1

    @property
    def output(self) -> Tensor:
        """The normalised ``(T, batch, gates, rows)``."""
        return self.gain * (self.deviation / self.sigma) + self.bias

    @property
    def stretch(self) -> Tensor:
        """``max_j |g_j| / σ_j``, the most that a gradient can grow by: ``(T, batch or 1, gates)``."""
        return (self.gain.abs() / self.sigma).amax(-1)

    def pull_back(self, gradient: Tensor) -> Tensor:
        """Return ``∂ξ/∂x`` from ``∂ξ/∂y``, both ``(T, batch, gates, rows)``."""
        scaled = self.gain * gradient
        if self.axis is None:
            return scaled / self.sigma
        z = self.deviation / self.sigma
        along = z * (scaled * z).mean(self.axis, keepdim=True)
        centre = scaled.mean(self.axis, keepdim=True) if self.centered else 0.0
        return (scaled - centre - along) / self.sigma


def _running_rows(normalizer: Normalizer, steps: int) -> Tensor:
    statistics = normalizer.running_mean
    assert isinstance(statistics, Tensor)
    return torch.arange(steps, device=statistics.device).clamp(max=len(statistics) - 1)
