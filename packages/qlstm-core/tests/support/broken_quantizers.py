"""Quantizers with one mistake each, as authors make them."""

from __future__ import annotations

import copy
import random
import unittest
from typing import Any

import torch
from right_plugins import (
    SMALLEST,
    LearnedSign,
    RandomSign,
    RowSign,
    ScaledSign,
    WeightedSign,
    mean_magnitude,
    sign,
)
from torch import Tensor

from qlstm_core import BitPlanes, Quantizer, straight_through


class FractionalBits(ScaledSign):
    """Declares its entropy instead of the bits as stored."""

    bits = 1.0  # type: ignore[assignment]


class AlwaysFloat32(ScaledSign):
    """Computes in float32 and forgets to go back."""

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        return super().forward(weight.float())


class DividesByZero(ScaledSign):
    """Rescales by the mean magnitude while training: 0/0 for a weight of zeros."""

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        size = weight.detach().abs().mean((1, 2), keepdim=True)
        factor = size / size if self.training else 1
        return straight_through(weight, factor * super().forward(weight))


class TakesTheMaximum(ScaledSign):
    """Takes the maximum of no elements, which there is not."""

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        scale = weight.abs().amax((1, 2), keepdim=True).clamp(SMALLEST)
        return straight_through(weight, sign(weight) * scale)


class NeedsContiguous(ScaledSign):
    """Uses view where reshape is needed."""

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        weight.view(weight.shape[0], weight.shape[1] * weight.shape[2])
        return super().forward(weight)


class ClipsItsInput(ScaledSign):
    """Applies BinaryConnect's clip in forward instead of in constrain_."""

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        weight.data.clamp_(-0.5, 0.5)
        return super().forward(weight)


class SamplesInEval(ScaledSign):
    """Ignores the mode."""

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        scale = mean_magnitude(weight)
        noise = scale * (2 * torch.rand(weight.shape).to(weight) - 1)
        return straight_through(weight, sign(weight + noise) * scale)


class CountsInEval(ScaledSign):
    """Keeps a running scale, also in eval()."""

    running: Tensor

    def prepare(self, weight: Tensor) -> None:
        self.register_buffer("running", weight.new_zeros(()))

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        self.running += 1
        return super().forward(weight)


class OwnRandomness(RandomSign):
    """Draws from another library's generator."""

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        if not self.training:
            return super().forward(weight)
        noise = torch.tensor([random.uniform(-1, 1) for _ in range(weight.numel())])
        scale = mean_magnitude(weight)
        return straight_through(weight, sign(weight + scale * noise.view(weight.shape).to(weight)) * scale)


class MixesGates(ScaledSign):
    """Takes one scale for all gates."""

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        return straight_through(weight, sign(weight) * mean_magnitude(weight, (0, 1, 2)))


class MixesRows(RowSign):
    """Bounds a row's scale by the largest of all rows."""

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        scale = mean_magnitude(weight, (2,))
        if scale.numel():
            scale = torch.maximum(scale, scale.amax(1, keepdim=True) / 8)
        return straight_through(weight, sign(weight) * scale)


class CutsTheGradient(ScaledSign):
    """Forgets straight_through: the gradient of sign is zero, or there is none."""

    gradient = "custom"

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        return sign(weight) * mean_magnitude(weight.detach())


class LosesItsParameter(LearnedSign):
    """Uses .data of its learned scale, which then never learns."""

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        return self.scale.data.to(weight) * straight_through(weight, sign(weight))


class ClipsTheGradient(ScaledSign):
    """Has the gradient of the clipped weight, but does not say so."""

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        inside = weight.clamp(-1, 1)
        return straight_through(inside, super().forward(weight.detach()))


class NotOnMeta(LearnedSign):
    """Reads a number in prepare, which the meta device does not have."""

    def prepare(self, weight: Tensor) -> None:
        self.initial = float(weight.norm())
        super().prepare(weight)


class PlainTensor(ScaledSign):
    """Keeps a tensor that is neither parameter nor buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = torch.tensor([-1.0, 1.0])


class ForgetsToSave(ScaledSign):
    """Keeps what it computes with in a buffer that is left out of the state_dict."""

    scale: Tensor

    def prepare(self, weight: Tensor) -> None:
        self.register_buffer("scale", mean_magnitude(weight), persistent=False)

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        return straight_through(weight, sign(weight) * self.scale.to(weight))


class SharesItsState(LearnedSign):
    """Copies by reference, to save memory."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Quantizer:
        twin = copy.copy(self)
        twin._parameters = dict(self._parameters)
        return twin


class HoldsALambda(ScaledSign):
    """Cannot be pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.scale_of = lambda weight: mean_magnitude(weight)


class RoundsTheGradientAway(ScaledSign):
    """Spells the straight-through gradient as a sum that rounds."""

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        return weight + (super().forward(weight) - weight).detach()


class ForgetsPerRow(RowSign):
    """Has a scale per row, but does not say so."""

    per_row = False

    def bitplanes(self, weight: Tensor, curvature: Tensor | None = None) -> BitPlanes:
        return BitPlanes.from_binary(weight >= 0, mean_magnitude(weight, (2,)).squeeze(-1))


class GivesZeros(ScaledSign):
    """Takes torch.sign, which is 0 at 0."""

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        return straight_through(weight, torch.sign(weight) * mean_magnitude(weight))


class ShrinksTheWeight(ScaledSign):
    """Decays the weight in constrain_: applying it twice is not applying it once."""

    def constrain_(self, weight: Tensor) -> None:
        weight.mul_(0.9)


class IgnoresCurvature(WeightedSign):
    """Asks for the curvature and does not use it."""

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        return ScaledSign.forward(self, weight)


class StoresAnother(ScaledSign):
    """Rounds the stored scale."""

    def bitplanes(self, weight: Tensor, curvature: Tensor | None = None) -> BitPlanes:
        return BitPlanes.from_binary(weight >= 0, mean_magnitude(weight).squeeze(-1).bfloat16().float())


class StoresDouble(ScaledSign):
    """Stores the scale in float64."""

    def bitplanes(self, weight: Tensor, curvature: Tensor | None = None) -> BitPlanes:
        return BitPlanes.from_binary(weight >= 0, mean_magnitude(weight).squeeze(-1).double())


class ForgetsItsScales(ScaledSign):
    """Counts no byte for the scale."""

    scales = 0


class KeepsItsResult(ScaledSign):
    """Remembers the last result, with the graph behind it: its layer can no longer be copied."""

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        self.last = super().forward(weight)
        return self.last


class DropsARow(ScaledSign):
    """Loses the last row."""

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        return super().forward(weight)[:, :-1]


class Transposes(ScaledSign):
    """Takes (gates, rows, cols) for (gates, cols, rows)."""

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        return super().forward(weight.mT)


class GivesOneNumber(ScaledSign):
    """Returns the mean in place of the weight: one number fits everywhere by broadcasting."""

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        return super().forward(weight).mean()


class GivesAnArray(ScaledSign):
    """Goes through NumPy and stays there."""

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        return super().forward(weight).detach().double().numpy()  # type: ignore[return-value]


class GoesToMeta(ScaledSign):
    """Leaves the device, and with it the values."""

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        return super().forward(weight).to("meta")


class ShapesWeightsInConstrain(ScaledSign):
    """Cuts the stored weight down."""

    def constrain_(self, weight: Tensor) -> None:
        weight.data = weight.data[:, :, ::2]


class StoresAnotherShape(ScaledSign):
    """Stores one column less."""

    def bitplanes(self, weight: Tensor, curvature: Tensor | None = None) -> BitPlanes:
        return BitPlanes.from_binary(weight[..., 1:] >= 0, mean_magnitude(weight).squeeze(-1))


class LeavesOut(ScaledSign):
    """Pretends that a check does not apply."""

    def constrain_(self, weight: Tensor) -> None:
        raise unittest.SkipTest("not today")


class Exits(ScaledSign):
    """Ends the process."""

    def constrain_(self, weight: Tensor) -> None:
        raise SystemExit(3)
