"""Cells with one mistake each, as authors make them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from right_cells import Coupled, Elman, Leak, coupled_step, elman_step, leak_step
from torch import Tensor

from qlstm_core import RecurrentLayer
from qlstm_core.layers.linear import Dense


def gated_by_the_state(x: Tensor, r: Tensor, h: Tensor) -> tuple[Tensor]:
    return ((x[:, 0] + h.sigmoid() * r[:, 0]).tanh(),)


class FoldsABias(Elman):
    """Multiplies the recurrent side by something, and does not say so in ``separate``."""

    cell = replace(Elman.cell, step=gated_by_the_state, projection=False)


def without_a_unit(x: Tensor, h: Tensor) -> tuple[Tensor]:
    return (leak_step(x, h)[0][:, 1:],)


class DropsAUnit(Leak):
    """Its step returns one feature less."""

    cell = replace(Leak.cell, step=without_a_unit)


def without_c(x: Tensor, r: Tensor, h: Tensor, c: Tensor, norm_cell: Any = None) -> tuple[Tensor]:
    return coupled_step(x, r, h, c, norm_cell)[:1]


class ForgetsC(Coupled):
    """Its step returns h alone, though it has a c."""

    cell = replace(Coupled.cell, step=without_c)


class OneGateTooMany(Leak):
    """Its weight has rows for three gates, and it names two."""

    def matrix_shapes(self, layer: int) -> dict[str, tuple[int, int, int]]:
        return {"ih": (3, self.hidden_size, self.layer_input_size(layer))}


class IgnoresDropout(Leak):
    """Does not hand on one of the arguments."""

    def __init__(self, *args: Any, dropout: float = 0.0, **keywords: Any) -> None:
        super().__init__(*args, **keywords)


class ClaimsAProjection(Leak):
    """Its step mixes h with the gates, which have other features where h is projected."""

    cell = replace(Leak.cell, projection=True)


class DividesBySteps(Leak):
    """Knows how long the sequence is."""

    def _run(self, x: Tensor, state: tuple[Tensor, ...], batch_sizes: list[int]) -> Any:
        y, final = super()._run(x, state, batch_sizes)
        return y / len(batch_sizes), final


class Remembers(Leak):
    """Goes on from the last call where no state is given."""

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, Any]:
        if hx is None and isinstance(input, Tensor) and input.dim() == 3:
            hx = getattr(self, "last", None)
        output, state = super().forward(input, hx)
        if isinstance(input, Tensor) and input.dim() == 3:
            self.last = state.detach()
        return output, state


def centred(x: Tensor, h: Tensor) -> tuple[Tensor]:
    return leak_step(x, h - h.mean(0))


class MixesSequences(Leak):
    """Subtracts the mean over the batch."""

    cell = replace(Leak.cell, step=centred)


@dataclass(frozen=True)
class VectorsOnly:
    """``W x`` of vectors."""

    weight: Tensor

    @property
    def dtype(self) -> torch.dtype:
        return self.weight.dtype

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self.weight), self.weight.flatten(0, 1)).unflatten(-1, self.weight.shape[:2])


class NoTokens(Leak):
    """Its linear map takes tokens for vectors."""

    def linear_map(self, side: str, layer: int, weights: Any, normalizer: Any) -> Any:
        return VectorsOnly(super().linear_map(side, layer, weights, normalizer).weight)


class DeeperIsLarger(Leak):
    """Treats a layer otherwise by its place."""

    def linear_map(self, side: str, layer: int, weights: Any, normalizer: Any) -> Any:
        return Dense((1 + layer) * super().linear_map(side, layer, weights, normalizer).weight)


class AnotherOperator(Elman):
    """Names an operator of other equations."""

    cell = replace(Elman.cell, operator=torch.rnn_relu, projection=False)


class SkipsTheQuantizer(Leak):
    """Multiplies with weights of full precision."""

    def quantized_weights(self, layer: int = 0, direction: int = 0) -> dict[str, Tensor]:
        super().quantized_weights(layer, direction)
        return self.full_precision_weights(layer, direction)


class IgnoresTheNormalizer(Leak):
    """Its linear map leaves a normaliser of weights out."""

    def linear_map(self, side: str, layer: int, weights: Any, normalizer: Any) -> Any:
        return Dense(weights[side])


class DoublesItsOutput(Leak):
    """Its output is not its state."""

    def _rows(self, x: Tensor, state: Any, batch_sizes: list[int]) -> Any:
        y, final = super()._rows(x, state, batch_sizes)
        return 2 * y, final


class HasAnIdleParameter(Leak):
    """Has a parameter that nothing uses."""

    def parameter_shapes(self, layer: int) -> dict[str, tuple[int, ...]]:
        return {**super().parameter_shapes(layer), "peephole": (self.hidden_size,)}


def cut(x: Tensor, r: Tensor, h: Tensor, c: Tensor, norm_cell: Any = None) -> tuple[Tensor, Tensor]:
    return coupled_step(x, r, h, c.detach(), norm_cell)


class CutsItsState(Coupled):
    """No gradient passes through c."""

    cell = replace(Coupled.cell, step=cut)


class _WrongTanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.tanh()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (y,) = ctx.saved_tensors
        result: Tensor = grad * (1 - y)
        return result


def wrong_derivative(x: Tensor, r: Tensor, h: Tensor) -> tuple[Tensor]:
    return (_WrongTanh.apply((x + r).squeeze(1)),)  # type: ignore[no-untyped-call]


class WrongDerivative(Elman):
    """Has a backward of its own, with a mistake."""

    cell = replace(Elman.cell, step=wrong_derivative)


class StartsElsewhere(Leak):
    """Draws its biases in the constructor, and not in reset_parameters."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        for name, parameter in self.named_parameters():
            if "bias" in name:
                torch.nn.init.constant_(parameter, 0.5)


class ForgetsToSave(Leak):
    """Has a factor that is neither parameter nor buffer."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.factor = 1 + float(torch.rand(()))

    def linear_map(self, side: str, layer: int, weights: Any, normalizer: Any) -> Any:
        return Dense(self.factor * super().linear_map(side, layer, weights, normalizer).weight)


class SharesItsState(Leak):
    """Its copies are itself."""

    def __deepcopy__(self, memo: Any) -> RecurrentLayer:
        return self


class HoldsALambda(Leak):
    """Cannot be pickled."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.identity = lambda x: x


class CountsWeightsAlone(Leak):
    """Forgets its biases in its size."""

    def storage_bytes(self) -> int:
        biases = sum(p.numel() for name, p in self.named_parameters() if "bias" in name)
        return super().storage_bytes() - 4 * biases


def elman_list(x: Tensor, r: Tensor, h: Tensor) -> Any:
    return list(elman_step(x, r, h))


class GivesAList(Elman):
    """Returns its state in a list."""

    cell = replace(Elman.cell, step=elman_list)
