"""Normalisers with one mistake each, as authors make them."""

from __future__ import annotations

from typing import Any

import torch
from right_plugins import BatchNorm, FeatureNorm, UnitRows
from torch import Tensor, nn

from qlstm_core import Normalizer


class CellIsANumber(FeatureNorm):
    """Declares a flag by a number."""

    cell = 1  # type: ignore[assignment]


class Stretches(FeatureNorm):
    """Clips what it gets, so that large input is not normalised."""

    def forward(self, preactivation: Tensor, step: int) -> Tensor:
        return super().forward(preactivation.clamp(-100, 100), step)


class AddsEpsToTheDeviation(FeatureNorm):
    """Adds eps outside the root."""

    def forward(self, preactivation: Tensor, step: int) -> Tensor:
        x = preactivation.to(torch.promote_types(preactivation.dtype, torch.float32))
        x = x - x.mean(-1, keepdim=True)
        # The square root of zero has no finite derivative: keep clear of it.
        deviation = (x.square().mean(-1, keepdim=True) + 1e-12).sqrt() + self.eps
        return (self.gain * x / deviation + self.bias).to(preactivation)


class MixesGates(Normalizer):
    """Normalises over all gates at once."""

    def forward(self, preactivation: Tensor, step: int) -> Tensor:
        return preactivation / (preactivation.square().mean((1, 2), keepdim=True) + 1e-5).sqrt()


class MixesSequences(Normalizer):
    """Normalises over the batch, in eval() too."""

    def forward(self, preactivation: Tensor, step: int) -> Tensor:
        return preactivation / (preactivation.square().mean((0, 2), keepdim=True) + 1e-5).sqrt()


class ShortTable(Normalizer):
    """Has a gain for each of ten steps, and no more."""

    def prepare(self, weight: Tensor) -> None:
        self.gain = nn.Parameter(weight.new_ones(10))

    def forward(self, preactivation: Tensor, step: int) -> Tensor:
        return preactivation * self.gain[: step + 1][step].to(preactivation)


class UpdatesInEval(BatchNorm):
    """Moves its running statistics in eval() too."""

    def forward(self, preactivation: Tensor, step: int) -> Tensor:
        result = super().forward(preactivation, step)
        if not self.training and len(preactivation) > 1:
            self.update(min(step, self.steps - 1), preactivation.detach())
        return result


class BiasedRunningVariance(BatchNorm):
    """Keeps the biased variance."""

    def update(self, row: int, x: Tensor) -> None:
        with torch.no_grad():
            self.running_mean[row] += self.momentum * (x.mean(0) - self.running_mean[row])
            self.running_var[row] += self.momentum * (x.var(0, correction=0) - self.running_var[row])


class CountsItsGainAlone(FeatureNorm):
    """Forgets the bias in its size."""

    def storage_bytes(self) -> int:
        return 4 * self.gain.numel()


class _WrongDouble(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad


class WrongDerivative(Normalizer):
    """Has a hand-written backward with a factor missing."""

    def forward(self, preactivation: Tensor, step: int) -> Tensor:
        return _WrongDouble.apply(preactivation)  # type: ignore[no-any-return]


class KnowsOneBatchSize(Normalizer):
    """Smooths over time, and trips when a sequence ends."""

    def forward(self, preactivation: Tensor, step: int) -> Tensor:
        last = getattr(self, "last", None) if step else None
        self.last = [preactivation.detach()]
        return preactivation if last is None else (preactivation + last[0]) / 2


class NoCellPath(FeatureNorm):
    """Takes the cell state for one with several gates."""

    def forward(self, preactivation: Tensor, step: int) -> Tensor:
        if preactivation.shape[1] == 1:
            raise RuntimeError("expected several gates")
        return super().forward(preactivation, step)


class NoGainOnMeta(UnitRows):
    """Reads a number in prepare, which the meta device does not have."""

    def prepare(self, weight: Tensor) -> None:
        self.initial = float(weight.norm())
        super().prepare(weight)


class DropsARow(Normalizer):
    """Loses the last row of the pre-activation."""

    def forward(self, preactivation: Tensor, step: int) -> Tensor:
        return preactivation[..., :-1]


class GivesOneNumber(Normalizer):
    """Gives the mean of the weight in its place: one number fits everywhere by broadcasting."""

    def weight(self, weight: Tensor) -> Tensor:
        return weight.mean()


class DropsSequencesLater(Normalizer):
    """Loses a sequence from the second step on."""

    def forward(self, preactivation: Tensor, step: int) -> Tensor:
        return preactivation[1:] if step > 0 and len(preactivation) > 1 else preactivation


class GainOfOneGate(FeatureNorm):
    """Declares statistics, and shares one gain between the gates."""

    def prepare(self, weight: Tensor) -> None:
        super().prepare(weight)
        self.gain = nn.Parameter(self.gain[:1].detach())
