"""A quantizer and normalisers that pass every check: the broken ones differ from these in one thing each."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from qlstm_core import Normalizer, Quantizer, straight_through

SMALLEST = torch.finfo(torch.float32).tiny


def mean_magnitude(weight: Tensor, dims: tuple[int, ...] = (1, 2)) -> Tensor:
    """One positive number per gate, also for a weight of zeros, of no elements or of a half type."""
    total = weight.abs().double().sum(dims, keepdim=True)
    count = max(weight.numel() // max(total.numel(), 1), 1)
    return (total / count).clamp(SMALLEST).to(weight)


def sign(weight: Tensor) -> Tensor:
    return torch.where(weight < 0, -1.0, 1.0).to(weight)


class ScaledSign(Quantizer):
    """One bit per weight and a scale per gate."""

    bits = 1
    scales = 1

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        return straight_through(weight, sign(weight) * mean_magnitude(weight))


class LearnedSign(ScaledSign):
    """The same with a learned scale, made by ``prepare``."""

    scale: nn.Parameter

    def prepare(self, weight: Tensor) -> None:
        self.scale = nn.Parameter(mean_magnitude(weight))

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        return self.scale.to(weight) * straight_through(weight, sign(weight))

    gradient = "custom"


class RandomSign(ScaledSign):
    """Samples signs while training."""

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        scale = mean_magnitude(weight)
        noise = scale * (2 * torch.rand_like(weight) - 1) if self.training else 0
        return straight_through(weight, sign(weight + noise) * scale)


class RowSign(ScaledSign):
    """A scale per row."""

    per_row = True

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        return straight_through(weight, sign(weight) * mean_magnitude(weight, (2,)))


class WeightedSign(ScaledSign):
    """A scale that weighs by curvature."""

    needs_curvature = True

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        importance = torch.ones_like(weight) if curvature is None else curvature.sqrt() + 1e-8
        mean = (importance.double() * weight.abs()).sum((1, 2), keepdim=True)
        mean = mean / importance.double().sum((1, 2), keepdim=True).clamp(1e-30)
        return straight_through(weight, sign(weight) * mean.clamp(SMALLEST).to(weight))


class FeatureNorm(Normalizer):
    """Layer normalisation, written out, of the cell state too."""

    statistics: ClassVar[Literal["features", "batch"] | None] = "features"
    cell = True
    eps = 1e-5
    gain: nn.Parameter
    bias: nn.Parameter

    def prepare(self, weight: Tensor) -> None:
        self.gain = nn.Parameter(weight.new_ones(weight.shape[:2]))
        self.bias = nn.Parameter(weight.new_zeros(weight.shape[:2]))

    def forward(self, preactivation: Tensor, step: int) -> Tensor:
        x = preactivation.to(torch.promote_types(preactivation.dtype, torch.float32))
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt()
        return (self.gain * x + self.bias).to(preactivation)


class RootMeanSquare(Normalizer):
    """Root-mean-square normalisation, written out: it does not centre and has no bias."""

    statistics: ClassVar[Literal["features", "batch"] | None] = "features"
    centered: ClassVar[bool] = False
    eps = 1e-5
    bias: None = None
    gain: nn.Parameter

    def prepare(self, weight: Tensor) -> None:
        self.gain = nn.Parameter(weight.new_ones(weight.shape[:2]))

    def forward(self, preactivation: Tensor, step: int) -> Tensor:
        x = preactivation.to(torch.promote_types(preactivation.dtype, torch.float32))
        x = x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt()
        return (self.gain * x).to(preactivation)


class BatchNorm(Normalizer):
    """Batch normalisation with statistics of eight steps, written out."""

    statistics: ClassVar[Literal["features", "batch"] | None] = "batch"
    eps = 1e-5
    momentum = 0.1
    steps = 8
    gain: nn.Parameter
    bias: nn.Parameter
    running_mean: Tensor
    running_var: Tensor

    def prepare(self, weight: Tensor) -> None:
        self.gain = nn.Parameter(weight.new_full(weight.shape[:2], 0.1))
        self.bias = nn.Parameter(weight.new_zeros(weight.shape[:2]))
        self.register_buffer("running_mean", weight.new_zeros(self.steps, *weight.shape[:2]))
        self.register_buffer("running_var", weight.new_ones(self.steps, *weight.shape[:2]))

    def forward(self, preactivation: Tensor, step: int) -> Tensor:
        x = preactivation.to(torch.promote_types(preactivation.dtype, torch.float32))
        row = min(step, self.steps - 1)
        mean, variance = self.running_mean[row], self.running_var[row]
        if self.training and len(x) > 1:
            mean, variance = x.mean(0), x.var(0, correction=0)
            self.update(row, x.detach())
        return (self.gain * (x - mean) / (variance + self.eps).sqrt() + self.bias).to(preactivation)

    def update(self, row: int, x: Tensor) -> None:
        with torch.no_grad():
            self.running_mean[row] += self.momentum * (x.mean(0) - self.running_mean[row])
            self.running_var[row] += self.momentum * (x.var(0) - self.running_var[row])


class UnitRows(Normalizer):
    """Acts on weights: rows of a learned length."""

    gain: nn.Parameter

    def prepare(self, weight: Tensor) -> None:
        self.gain = nn.Parameter(weight.new_ones(weight.shape[:2]))

    def weight(self, weight: Tensor) -> Tensor:
        return self.gain.unsqueeze(-1).to(weight) * nn.functional.normalize(weight, dim=-1)
